//! The structure of the sources, held by test: no circle of files, `mod.rs` as a table of contents,
//! sizes, one definition per type name, doc lines that begin with their subject.
//!
//! Each rule has its list of exceptions, which may only shrink: an entry that is no longer needed
//! fails the test as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The most lines of code in a file, without comments, blank lines and unit tests.
const MAX_LINES: usize = 400;

/// Files that import each other in a circle.
const CIRCLES: &[&str] = &[];

/// `mod.rs` files that define something.
const MOD_RS: &[&str] = &[];

/// Files of more than [`MAX_LINES`].
const LARGE: &[&str] = &[];

/// Type names that are defined more than once in the library, or in the binary.
const TWICE: &[&str] = &[];

/// A source file with its place in the tree of modules.
struct Source {
    path: PathBuf,
    /// Without comments and unit tests.
    code: String,
    text: String,
    /// The path of its module, beginning with the crate (`lib` or `bin`).
    module: Vec<String>,
}

impl Source {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn is_mod(&self) -> bool {
        self.path.ends_with("mod.rs")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_owned();
                found.push(Source {
                    code: code_of(&text),
                    module: module_of(&path),
                    path,
                    text,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 100, "the sources were not found");
    found
}

fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = code.lines().map(|line| match line.find("//") {
        Some(at) if !line[..at].contains('"') => &line[..at],
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn module_of(path: &Path) -> Vec<String> {
    let below = path.strip_prefix("src").unwrap().with_extension("");
    let mut parts: Vec<String> = below
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    if parts.first().is_some_and(|first| first == "bin") {
        // `bin/postrider/main` is the root of its crate.
        parts.splice(..2, ["bin".to_owned()]);
    } else {
        parts.insert(0, "lib".to_owned());
    }
    let last = parts.last().unwrap();
    if last == "mod" || parts.len() == 2 && (last == "main" || last == "lib") {
        parts.pop();
    }
    parts
}

/// The paths that a `use` tree names, each as its segments.
fn expand(tree: &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let plain = tree.split(" as ").next().unwrap_or_default();
        let segments = plain.split("::").map(|part| part.trim().to_owned());
        found.push(prefix.iter().cloned().chain(segments).collect());
        return;
    };
    let head = tree[..open].split("::").map(str::trim);
    let head = head.filter(|part| !part.is_empty()).map(str::to_owned);
    let prefix: Vec<String> = prefix.iter().cloned().chain(head).collect();
    let inner = &tree[open + 1..tree.rfind('}').unwrap()];
    let mut depth = 0;
    let mut start = 0;
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&inner[start..at], &prefix, found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand(&inner[start..], &prefix, found);
    }
}

/// Every path into this crate that a file names: imports (and whether they are re-exports), and
/// paths within the code.
fn paths_of(code: &str) -> Vec<(Vec<String>, bool)> {
    let mut found = Vec::new();
    let mut rest = String::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let start = line.trim_start();
        let is_public = start.starts_with("pub") && start.contains(" use ");
        if !(start.starts_with("use ") || is_public) {
            rest.push_str(line);
            rest.push('\n');
            continue;
        }
        let mut item = start[start.find("use ").unwrap() + 4..].to_owned();
        while !item.contains(';') {
            item.push_str(lines.next().unwrap());
        }
        let mut paths = Vec::new();
        expand(item.split(';').next().unwrap(), &[], &mut paths);
        found.extend(paths.into_iter().map(|path| (path, is_public)));
    }
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in rest.match_indices(start) {
            let before = rest[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let path: String = rest[at..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':')
                .collect();
            let segments = path.split("::").filter(|part| !part.is_empty());
            found.push((segments.map(str::to_owned).collect(), false));
        }
    }
    found
}

/// The names that a file defines at its top.
fn definitions(code: &str) -> BTreeSet<String> {
    const KINDS: [&str; 8] = [
        "struct ",
        "enum ",
        "trait ",
        "type ",
        "fn ",
        "const ",
        "static ",
        "macro_rules! ",
    ];
    let mut found = BTreeSet::new();
    for line in code
        .lines()
        .filter(|line| !line.starts_with([' ', '}', '#']))
    {
        for kind in KINDS {
            let Some(at) = line.find(kind) else { continue };
            let name = line[at + kind.len()..].trim_start_matches("fn ");
            let name: String = name
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            found.insert(name);
            break;
        }
    }
    found
}

/// The files of a tree, and what each names of the others.
struct Graph<'a> {
    by_module: BTreeMap<&'a [String], usize>,
    names: Vec<BTreeSet<String>>,
    /// Of each file, the paths that it hands on, made absolute.
    exports: Vec<Vec<Vec<String>>>,
    imports: Vec<Vec<Vec<String>>>,
}

impl<'a> Graph<'a> {
    fn new(sources: &'a [Source]) -> Self {
        let by_module: BTreeMap<&[String], usize> = sources
            .iter()
            .enumerate()
            .map(|(index, source)| (source.module.as_slice(), index))
            .collect();
        let mut exports = Vec::new();
        let mut imports = Vec::new();
        for source in sources {
            let mut handed_on = Vec::new();
            let mut used = Vec::new();
            for (path, is_public) in paths_of(&source.code) {
                let Some(absolute) = absolute(source, &path, &by_module) else {
                    continue;
                };
                if is_public {
                    handed_on.push(absolute);
                } else {
                    used.push(absolute);
                }
            }
            exports.push(handed_on);
            imports.push(used);
        }
        let names = sources
            .iter()
            .map(|source| definitions(&source.code))
            .collect();
        Self {
            by_module,
            names,
            exports,
            imports,
        }
    }

    /// The file that defines what a path names, through whatever hands it on.
    fn resolve(&self, path: &[String], depth: usize) -> Option<usize> {
        let mut length = path.len();
        while !self.by_module.contains_key(&path[..length]) {
            length -= 1;
            if length == 0 {
                return None;
            }
        }
        let file = self.by_module[&path[..length]];
        let Some(name) = path.get(length) else {
            return Some(file);
        };
        if self.names[file].contains(name) || depth > 8 {
            return Some(file);
        }
        for export in &self.exports[file] {
            let last = export.last().unwrap();
            if last == name && export != path {
                return self.resolve(export, depth + 1);
            }
            if last == "*" {
                let mut through = export[..export.len() - 1].to_vec();
                through.push(name.clone());
                let found = self.resolve(&through, depth + 1);
                if found.is_some_and(|found| self.names[found].contains(name)) {
                    return found;
                }
            }
        }
        // A private import of the parent, which its children may name as well.
        let import = self.imports[file]
            .iter()
            .find(|import| import.last() == Some(name) && import.as_slice() != path);
        match import {
            Some(import) => self.resolve(import, depth + 1),
            None => Some(file),
        }
    }

    /// The files that a file imports.
    fn arrows(&self, from: usize) -> BTreeSet<usize> {
        let to = self.imports[from]
            .iter()
            .filter_map(|path| self.resolve(path, 0));
        to.filter(|to| *to != from).collect()
    }
}

/// A path from the root of its crate; `None` where it leads into another crate.
fn absolute(
    source: &Source,
    path: &[String],
    modules: &BTreeMap<&[String], usize>,
) -> Option<Vec<String>> {
    let mut base = source.module.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => {
            base.truncate(1);
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        first => {
            base.push(first.to_owned());
            if !modules.contains_key(base.as_slice()) {
                return None;
            }
            rest = &path[1..];
        }
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

/// The sets of files that reach each other, each sorted.
fn circles(arrows: &[BTreeSet<usize>]) -> Vec<BTreeSet<usize>> {
    let reach = |from: usize| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            for next in &arrows[at] {
                if seen.insert(*next) {
                    open.push(*next);
                }
            }
        }
        seen
    };
    let reached: Vec<BTreeSet<usize>> = (0..arrows.len()).map(reach).collect();
    let mut found = BTreeSet::new();
    for (file, reachable) in reached.iter().enumerate() {
        if reachable.contains(&file) {
            let circle = reachable
                .iter()
                .copied()
                .filter(|other| reached[*other].contains(&file));
            found.insert(circle.collect::<BTreeSet<usize>>());
        }
    }
    found.into_iter().collect()
}

/// Fails unless `found` is what `listed` says.
fn held_to(rule: &str, listed: &[&str], found: &BTreeSet<String>) {
    let listed: BTreeSet<String> = listed.iter().map(ToString::to_string).collect();
    let new: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(found).collect();
    assert!(new.is_empty(), "{rule}: {new:#?}");
    assert!(
        gone.is_empty(),
        "{rule}: no longer so, take it off the list: {gone:#?}"
    );
}

#[test]
fn files_import_each_other_in_no_circle() {
    let sources = sources();
    let graph = Graph::new(&sources);
    let arrows: Vec<_> = (0..sources.len()).map(|file| graph.arrows(file)).collect();
    let count: usize = arrows.iter().map(BTreeSet::len).sum();
    assert!(
        count > 300,
        "only {count} imports were found: does this test still read them?"
    );
    let found = circles(&arrows)
        .into_iter()
        .flat_map(|circle| circle.into_iter().map(|file| sources[file].name()));
    held_to(
        "these files import each other in a circle",
        CIRCLES,
        &found.collect(),
    );
}

#[test]
fn a_circle_would_be_found() {
    let arrows: Vec<BTreeSet<usize>> = [vec![1], vec![2], vec![0], vec![0]]
        .into_iter()
        .map(|to| to.into_iter().collect())
        .collect();
    assert_eq!(circles(&arrows), [BTreeSet::from([0, 1, 2])]);
}

#[test]
fn a_mod_rs_is_a_table_of_contents() {
    let found = sources()
        .into_iter()
        .filter(|source| source.is_mod() && !definitions(&source.code).is_empty())
        .map(|source| source.name());
    held_to(
        "a mod.rs holds docs, `mod` and `use` only",
        MOD_RS,
        &found.collect(),
    );
}

#[test]
fn no_file_is_too_large() {
    let lines = |code: &str| code.lines().filter(|line| !line.trim().is_empty()).count();
    let found = sources()
        .into_iter()
        .filter(|source| lines(&source.code) > MAX_LINES)
        .map(|source| source.name());
    held_to(
        "more than 400 lines of code: which is the second subject?",
        LARGE,
        &found.collect(),
    );
}

#[test]
fn a_type_name_is_defined_once() {
    let mut defined: BTreeMap<(String, String), usize> = BTreeMap::new();
    for source in sources() {
        for line in source.code.lines() {
            let without_pub = line
                .split_once(' ')
                .filter(|(first, _)| first.starts_with("pub"));
            let line = without_pub.map_or(line, |(_, rest)| rest);
            for kind in ["struct ", "enum ", "trait "] {
                let Some(name) = line.strip_prefix(kind) else {
                    continue;
                };
                let name: String = name
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                *defined.entry((source.module[0].clone(), name)).or_default() += 1;
            }
        }
    }
    assert!(
        defined.len() > 300,
        "only {} types were found",
        defined.len()
    );
    let found = defined
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|((_, name), _)| name);
    held_to(
        "these type names are defined more than once",
        TWICE,
        &found.collect(),
    );
}

#[test]
fn doc_lines_begin_with_their_subject() {
    const QUESTION_WORDS: [&str; 8] = [
        "What", "How", "Whether", "Where", "Whose", "Which", "Who", "When",
    ];
    let mut found = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            let line = line.trim_start();
            let Some(doc) = line
                .strip_prefix("///")
                .or_else(|| line.strip_prefix("//!"))
            else {
                continue;
            };
            let first = doc.split_whitespace().next().unwrap_or_default();
            if QUESTION_WORDS.contains(&first.trim_end_matches([',', ':'])) {
                found.push(format!("{}:{}: {line}", source.name(), number + 1));
            }
        }
    }
    assert!(
        found.is_empty(),
        "begin with a noun or a verb in the third person:\n{}",
        found.join("\n")
    );
}
