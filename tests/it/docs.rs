//! The pages, held by test to what is there: links lead somewhere, commands and settings exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::server::run;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README and every text below `docs/`, by its path in the repository.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root().join("README.md"), root().join("docs")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                std::fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if let Ok(text) = String::from_utf8(std::fs::read(&path).unwrap()) {
            found.insert(path.strip_prefix(root()).unwrap().to_owned(), text);
        }
    }
    assert!(found.len() > 10, "only {} pages were found", found.len());
    found
}

fn is_markdown(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// A page's lines, each with the language of the block that it is in; `None` in prose.
fn lines(page: &str) -> Vec<(Option<&str>, &str)> {
    let mut inside = None;
    let mut all = Vec::new();
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), inside) {
            (Some(language), None) => inside = Some(language.split(',').next().unwrap_or_default()),
            (Some(_), Some(_)) => inside = None,
            (None, _) => all.push((inside, line)),
        }
    }
    all
}

/// What stands between `open` and `close`, each time.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open)
        .skip(1)
        .filter_map(move |rest| Some(rest.split_once(close)?.0))
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::new();
    let mut all = BTreeSet::new();
    for (_, line) in lines(page)
        .into_iter()
        .filter(|(inside, line)| inside.is_none() && line.starts_with('#'))
    {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let before: &mut u32 = seen.entry(anchor.clone()).or_default();
        all.insert(if *before == 0 {
            anchor
        } else {
            format!("{anchor}-{before}")
        });
        *before += 1;
    }
    all
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut wrong = Vec::new();
    for (path, page) in pages.iter().filter(|(path, _)| is_markdown(path)) {
        let prose: String = lines(page)
            .into_iter()
            .filter(|(inside, _)| inside.is_none())
            .map(|(_, line)| line)
            .collect();
        for link in between(&prose, "](", ")").filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = root().join(path.parent().unwrap()).join(file);
            let target = if file.is_empty() {
                root().join(path)
            } else {
                target
            };
            let leads = match std::fs::metadata(&target) {
                Err(_) => false,
                Ok(_) if anchor.is_empty() => true,
                Ok(_) => std::fs::read_to_string(&target)
                    .is_ok_and(|text| anchors(&text).contains(anchor)),
            };
            if !leads {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these lead nowhere:\n{}",
        wrong.join("\n")
    );
}

/// What the binary says of itself.
#[derive(Default)]
struct Help {
    commands: BTreeMap<String, Help>,
    flags: BTreeSet<String>,
    settings: BTreeSet<String>,
}

impl Help {
    /// Asks `postrider` and then each of its commands, and theirs.
    fn of(command: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments: Vec<&str> = command.iter().chain(&["--help"]).copied().collect();
        let output = run(folder.path(), &arguments);
        assert!(output.status.success(), "{arguments:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut help = Self::default();
        let mut section = "";
        for line in text.lines() {
            if !line.starts_with(' ') {
                section = line;
            } else if line.trim_start().starts_with('-') {
                let words = line
                    .split([' ', ',', '=', '['])
                    .filter(|word| word.starts_with('-'));
                help.flags.extend(words.map(str::to_owned));
            } else if section == "Commands:" && !line.starts_with("   ") {
                let name = line.split_whitespace().next().unwrap();
                let aliases = between(line, "[aliases: ", "]").flat_map(|list| list.split(", "));
                for name in aliases.chain([name]).filter(|name| *name != "help") {
                    let inner: Vec<&str> = command.iter().copied().chain([name]).collect();
                    help.commands.insert(name.to_owned(), Self::of(&inner));
                }
            }
            help.settings.extend(
                between(line, "[env: ", "]").map(|env| env.trim_end_matches('=').to_owned()),
            );
        }
        help
    }

    fn all_settings(&self) -> BTreeSet<&str> {
        let below = self.commands.values().flat_map(Self::all_settings);
        self.settings
            .iter()
            .map(String::as_str)
            .chain(below)
            .collect()
    }

    /// What of that command does not exist.
    fn lacks<'a>(&self, words: &[&'a str]) -> Option<&'a str> {
        let (first, rest) = words.split_first()?;
        if let Some(command) = self.commands.get(*first) {
            return command.lacks(rest);
        }
        let flag = first.split('=').next().unwrap_or(first);
        let is_flag = flag.starts_with('-')
            && flag
                .trim_start_matches('-')
                .starts_with(char::is_alphabetic);
        let is_command =
            !self.commands.is_empty() && first.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        let is_missing = if is_flag {
            !self.flags.contains(flag)
        } else {
            is_command
        };
        if is_missing {
            Some(first)
        } else {
            self.lacks(rest)
        }
    }
}

/// The lines of a page that a person would type: after a prompt, in scripts, and code in prose.
fn typed(page: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut goes_on = false;
    for (inside, line) in lines(page) {
        let typed = match inside {
            None => {
                all.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
                continue;
            }
            Some("console") if goes_on => line,
            Some("console") => line.trim_start().strip_prefix("$ ").unwrap_or_default(),
            Some("sh" | "bash") => line,
            Some(_) => continue,
        };
        let text = typed.trim_end_matches('\\');
        match all.last_mut().filter(|_| goes_on) {
            Some(last) => last.push_str(text),
            None => all.push(text.to_owned()),
        }
        goes_on = typed.ends_with('\\');
    }
    all
}

/// What is said to `postrider` in a line for the shell: the words after each of its names.
fn commands(line: &str) -> Vec<Vec<&str>> {
    let line = line.split(" #").next().unwrap_or_default();
    let simple = line.split(['|', ';', '&', '(', ')', '`']);
    let words = simple.map(|one| {
        one.split_whitespace()
            .skip_while(|word| is_assignment(word))
            .collect()
    });
    let said = words.filter_map(|words: Vec<&str>| match words.as_slice() {
        // A dependency in a `Cargo.toml`.
        ["postrider", "=", ..] => None,
        ["cargo", "run", rest @ ..] => {
            let at = rest.iter().position(|word| *word == "--")?;
            Some(rest[at + 1..].to_vec())
        }
        [program, rest @ ..] if *program == "postrider" || program.ends_with("/postrider") => {
            Some(rest.to_vec())
        }
        _ => None,
    });
    said.collect()
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=')
        .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
}

#[test]
fn commands_and_their_flags_exist() {
    let help = Help::of(&[]);
    let (mut wrong, mut right) = (Vec::new(), 0);
    for (path, page) in pages() {
        let lines = if is_markdown(&path) {
            typed(&page)
        } else {
            page.lines()
                .filter_map(|line| Some(line.strip_prefix("ExecStart=")?.to_owned()))
                .collect()
        };
        for line in &lines {
            for words in commands(line) {
                match help.lacks(&words) {
                    Some(word) => wrong.push(format!("{}: `{word}` in: {line}", path.display())),
                    None => right += 1,
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these do not exist:\n{}",
        wrong.join("\n")
    );
    assert!(
        right > 40,
        "only {right} commands were found: does this test still read them?"
    );
}

#[test]
fn settings_exist() {
    const PREFIX: &str = "POSTRIDER_";
    let help = Help::of(&[]);
    let known = help.all_settings();
    let mut wrong = Vec::new();
    for (path, page) in pages() {
        for rest in page.split(PREFIX).skip(1) {
            let end = rest
                .find(|c: char| !c.is_ascii_uppercase() && c != '_')
                .unwrap_or(rest.len());
            let name = format!("{PREFIX}{}", &rest[..end]);
            // `POSTRIDER_…` is all of them, `POSTRIDER_DEFAULT_…` some.
            let exists = if name.ends_with('_') {
                known.iter().any(|known| known.starts_with(&name))
            } else {
                known.contains(name.as_str())
            };
            if !exists {
                wrong.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these do not exist:\n{}",
        wrong.join("\n")
    );
}
