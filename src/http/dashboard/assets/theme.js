// The theme: the system's preference, unless the toggle was used. A classic script, so that it runs before
// the first paint. The theme is the only value in the browser's local storage.
'use strict';

(() => {
  const KEY = 'postrider-theme';
  const root = document.documentElement;
  const prefersDark = matchMedia('(prefers-color-scheme: dark)');

  const stored = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is disabled
    }
  };

  const show = () => {
    const chosen = stored();
    const dark = chosen ? chosen === 'dark' : prefersDark.matches;
    root.setAttribute('data-theme', dark ? 'dark' : 'light');
  };

  document.addEventListener('click', (event) => {
    if (!event.target.closest('[data-testid="theme-toggle"]')) return;
    const next = root.getAttribute('data-theme') === 'dark' ? 'light' : 'dark';
    try {
      localStorage.setItem(KEY, next);
      show();
    } catch {
      root.setAttribute('data-theme', next);
    }
  });

  prefersDark.addEventListener('change', show);
  show();
})();
