//! Checks the documentation: links have targets, commands and settings exist, the prose is plain
//! English.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::support::server::run;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README, the changelog and every text file below `docs/`, by path in the repository.
fn pages() -> BTreeMap<PathBuf, String> {
    let found = texts(&["README.md", "CHANGELOG.md", "docs"]);
    assert!(found.len() > 10, "only {} pages were found", found.len());
    found
}

/// The text files at or below these paths, by path in the repository.
fn texts(paths: &[&str]) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open: Vec<PathBuf> = paths.iter().map(|path| root().join(path)).collect();
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
    found
}

fn is_markdown(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// The lines of a page, each with the language of its code block; `None` in prose.
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

/// Every text between `open` and `close`.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open)
        .skip(1)
        .filter_map(move |rest| Some(rest.split_once(close)?.0))
}

/// The anchors of a page's headings, as GitHub generates them.
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

/// The commands, flags and settings in the binary's help.
#[derive(Default)]
struct Help {
    commands: BTreeMap<String, Help>,
    flags: BTreeSet<String>,
    settings: BTreeSet<String>,
}

impl Help {
    /// Reads the help of a command and of its subcommands.
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

    /// The first word of a command line that does not exist.
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

/// The command lines of a page: after a prompt, in scripts, and code in prose.
fn typed(page: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut continues = false;
    for (inside, line) in lines(page) {
        let typed = match inside {
            None => {
                all.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
                continue;
            }
            Some("console") if continues => line,
            Some("console") => line.trim_start().strip_prefix("$ ").unwrap_or_default(),
            Some("sh" | "bash") => line,
            Some(_) => continue,
        };
        let text = typed.trim_end_matches('\\');
        match all.last_mut().filter(|_| continues) {
            Some(last) => last.push_str(text),
            None => all.push(text.to_owned()),
        }
        continues = typed.ends_with('\\');
    }
    all
}

/// The arguments of each `postrider` call in a shell command line.
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
            // `POSTRIDER_…` stands for all settings, `POSTRIDER_DEFAULT_…` for some.
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

/// Forbidden phrases in lower case, with the remedy for each group.
const PHRASES: &[(&str, &[&str])] = &[
    (
        "negate the verb: `is not a setting`, `unknown setting`",
        &[
            "is no", "are no", "was no", "were no", "is none", "are none",
        ],
    ),
    (
        "name the thing: `pending deliveries`, `anyone who`, `if you`",
        &[
            "what waits",
            "what failed",
            "what fails",
            "what became of",
            "what becomes of",
            "who already",
            "whoever",
        ],
    ),
    (
        "`report`, `notify`, `receive`",
        &[
            "is told",
            "are told",
            "was told",
            "were told",
            "tell of",
            "tells of",
            "told of",
            "hear of",
            "hears of",
        ],
    ),
    ("`continue`", &["go on", "goes on", "going on", "went on"]),
    ("`automatically`", &["by itself", "by themselves"]),
    (
        "`restore`, `requeue`, `recover`",
        &["bring back", "brings back", "brought back"],
    ),
    (
        "`reclaim`, `revoke`, `revert`",
        &["take back", "takes back", "taken back", "took back"],
    ),
    ("`release`", &["let go", "lets go"]),
    ("name the result", &["makes of it", "comes to", "came to"]),
    ("`fix`", &["mend", "mends", "mended"]),
    ("`valid for`, `allows`", &["good for"]),
    ("`revoked`", &["worthless", "worth nothing"]),
    ("`internal error`", &["our fault"]),
    ("`permanently`, `always`", &["for ever"]),
    ("`again`", &["anew"]),
    ("`timeout`", &["time-out", "time-outs"]),
    (
        "`in total`",
        &["in all.", "in all,", "in all:", "in all;", "in all)"],
    ),
    (
        "`also`, `as well`",
        &[", too,", ", too.", ", too:", ", too;", ", too)"],
    ),
    ("`at least`", &["at the least"]),
    ("`up to N`", &["at most so many"]),
];

/// Phrases in lower case that contain a forbidden one and are plain English.
const ALLOWED: &[&str] = &[
    "are no longer",
    "is no longer",
    "is no more than",
    "there are no",
    "there are none",
    "there is no",
    "there is none",
    "there was no",
    "was no longer",
    "were no longer",
    "when it comes to",
];

/// The first words that a comment must not have, with the remedy.
const FIRST_WORDS: &[(&str, &str)] = &[
    ("Whose ", "name it: `Owning tenant.`"),
    ("Which one", "name it: `Delivery id.`"),
];

/// The number of forbidden phrases that are still in a file or source folder. It may only shrink.
const EXCEPTIONS: &[(&str, usize)] = &[];

/// Lines of prose that follow each other, each with its number.
type Passage<'a> = Vec<(usize, &'a str)>;

/// The prose of a file: Markdown without code blocks, comments in Rust, every line of other files.
fn passages<'a>(path: &Path, text: &'a str) -> Vec<Passage<'a>> {
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    let has_code_blocks = is_rust || is_markdown(path);
    let mut all = vec![Passage::new()];
    let mut is_code = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        let prose = if is_rust {
            let comment = line.strip_prefix("//");
            is_code = is_code && comment.is_some();
            comment.map_or("", |comment| comment.trim_start_matches(['/', '!']).trim())
        } else {
            line
        };
        let is_fence = has_code_blocks && prose.starts_with("```");
        if is_fence {
            is_code = !is_code;
        }
        if is_fence || is_code || prose.is_empty() {
            all.push(Passage::new());
        } else if let Some(passage) = all.last_mut() {
            passage.push((at + 1, prose));
        }
    }
    all.retain(|passage| !passage.is_empty());
    all
}

/// Whether `text[range]` does not begin or end inside a word.
fn is_whole(text: &str, range: &Range<usize>) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let phrase = &text[range.clone()];
    let before = text[..range.start].chars().next_back();
    let after = text[range.end..].chars().next();
    let begins_inside = phrase.starts_with(is_letter) && before.is_some_and(is_letter);
    let ends_inside = phrase.ends_with(is_letter) && after.is_some_and(is_letter);
    !begins_inside && !ends_inside
}

/// The forbidden phrases in a text: position, phrase and remedy.
fn forbidden(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let text = text.to_ascii_lowercase();
    let places = |phrase: &str| -> Vec<Range<usize>> {
        let matches = text.match_indices(phrase);
        matches
            .map(|(at, found)| at..at + found.len())
            .filter(|range| is_whole(&text, range))
            .collect()
    };
    let allowed: Vec<Range<usize>> = ALLOWED.iter().flat_map(|phrase| places(phrase)).collect();
    let mut found = Vec::new();
    for (remedy, phrases) in PHRASES {
        for phrase in *phrases {
            for place in places(phrase) {
                let is_allowed = allowed
                    .iter()
                    .any(|range| range.start <= place.start && place.end <= range.end);
                if !is_allowed {
                    found.push((place.start, *phrase, *remedy));
                }
            }
        }
    }
    found.sort_unstable();
    found
}

/// The findings in a file, one line each.
fn findings(path: &Path, text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for passage in passages(path, text) {
        let mut joined = String::new();
        let mut starts = Vec::new();
        for (number, line) in &passage {
            starts.push((joined.len(), *number));
            joined.push_str(line);
            joined.push(' ');
        }
        let first_words = FIRST_WORDS
            .iter()
            .filter(|(words, _)| joined.starts_with(words))
            .map(|(words, remedy)| (0, *words, *remedy));
        for (at, phrase, remedy) in forbidden(&joined).into_iter().chain(first_words) {
            let line = starts.iter().rfind(|(start, _)| *start <= at);
            let number = line.map_or(0, |(_, number)| *number);
            all.push(format!(
                "{}:{number}: \"{}\": {remedy}",
                path.display(),
                phrase.trim()
            ));
        }
    }
    all
}

/// The path under which the findings of a file are counted: its folder below `src/`, or the file.
fn counted_under(path: &Path) -> PathBuf {
    let parts = path.iter().count();
    if !path.starts_with("src") {
        path.to_owned()
    } else if parts > 2 {
        path.iter().take(2).collect()
    } else {
        PathBuf::from("src")
    }
}

#[test]
fn the_prose_is_plain_english() {
    let mut files = pages();
    // Generated from the comments in `src/`.
    files.remove(Path::new("docs/openapi.json"));
    files.extend(texts(&["src"]).into_iter().filter(|(path, _)| {
        path.extension()
            .is_some_and(|extension| extension == "rs" || extension == "js")
    }));
    let mut found: BTreeMap<PathBuf, Vec<String>> = EXCEPTIONS
        .iter()
        .map(|(path, _)| (PathBuf::from(path), Vec::new()))
        .collect();
    for (path, text) in &files {
        let under = found.entry(counted_under(path)).or_default();
        under.extend(findings(path, text));
    }
    let mut wrong = Vec::new();
    for (path, lines) in found {
        let exception = EXCEPTIONS
            .iter()
            .find(|(excepted, _)| Path::new(excepted) == path);
        let expected = exception.map_or(0, |(_, number)| *number);
        let (path, number) = (path.display(), lines.len());
        match number.cmp(&expected) {
            Ordering::Greater => {
                wrong.push(format!("{path}: {number} phrases, {expected} expected:"));
                wrong.extend(lines);
            }
            Ordering::Less => wrong.push(format!(
                "{path}: {number} phrases, {expected} expected: lower the number in EXCEPTIONS"
            )),
            Ordering::Equal => {}
        }
    }
    assert!(
        wrong.is_empty(),
        "write these in plain English:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn forbidden_phrases_are_found_across_lines_and_not_inside_words() {
    let page = "A setting that is\nno number. There is no limit.\n```\nfor ever\n```\nThe time-out, for ever.\n";
    let code =
        "/// Whose it is.\nlet text = \"for ever\"; // for ever\n/// Amends, and lets\n/// go.\n";
    let found = findings(Path::new("page.md"), page);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("page.md:1: \"is no\""), "{found:?}");
    assert!(found[1].starts_with("page.md:6: "), "{found:?}");
    let found = findings(Path::new("code.rs"), code);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("code.rs:1: \"Whose\""), "{found:?}");
    assert!(found[1].starts_with("code.rs:3: \"lets go\""), "{found:?}");
}
