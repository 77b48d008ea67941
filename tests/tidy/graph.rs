//! The graph of which file of `src` names which other file, read from `use` lines and paths.
//!
//! Each name is followed to the file that defines it, through the re-exports of every `mod.rs` on the way. Such a
//! re-export is the interface of its folder and does not count as a dependency. A room may also re-export a name of a
//! lower room: code that uses that name depends on the upper room only. Comments, inline tests and files that
//! are compiled only for tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A file of `src`.
pub(crate) struct Source {
    /// The path relative to `src`, with `/`.
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Source {
    /// The room that the file belongs to: the first folder of its path, or the file's own name.
    pub(crate) fn room(&self) -> &str {
        self.name.split(['/', '.']).next().expect("split gives at least one")
    }

    /// The numbered lines of the program, without comments and without inline tests.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut following = self.text.lines().skip(1);
        let mut in_tests = false;
        self.text
            .lines()
            .enumerate()
            .filter(move |(_, line)| {
                let next = following.next().unwrap_or_default();
                in_tests |= *line == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{');
                let is_code = !in_tests;
                in_tests &= *line != "}";
                is_code
            })
            .map(|(at, line)| (at + 1, without_comment(line)))
    }

    /// The path of the file's module.
    fn module(&self) -> Vec<String> {
        let path = self.name.strip_suffix(".rs").expect("a Rust file");
        let path = path.strip_suffix("/mod").unwrap_or(path);
        path.split('/')
            .filter(|part| *part != "lib")
            .map(str::to_owned)
            .collect()
    }
}

/// The line up to its comment. Slashes in a string, as in a URL, begin none.
fn without_comment(line: &str) -> &str {
    let is_comment = |at: &usize| line[..*at].matches('"').count().is_multiple_of(2);
    let comment = line.match_indices("//").map(|(at, _)| at).find(is_comment);
    &line[..comment.unwrap_or(line.len())]
}

/// Whether a `use` begins in this line.
pub(crate) fn is_use(line: &str) -> bool {
    let line = line.trim_start();
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')').map_or("", |(_, rest)| rest).trim_start(),
        Some(rest) => rest.trim_start(),
        None => line,
    };
    line.starts_with("use ")
}

/// Every file of `src`, sorted by name.
pub(crate) fn sources() -> Vec<Source> {
    fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    assert!(paths.len() > 20, "the source was not found in {}", root.display());
    paths
        .iter()
        .map(|path| Source {
            name: path
                .strip_prefix(&root)
                .expect("below src")
                .to_string_lossy()
                .replace('\\', "/"),
            text: std::fs::read_to_string(path).expect("src is readable"),
        })
        .collect()
}

/// Each file, with the files that it names.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// One imported name: the path it comes from, and the name it has in the importing file.
struct Import {
    path: Vec<String>,
    name: String,
    is_public: bool,
}

/// The graph of `sources`.
pub(crate) fn graph(sources: &[Source]) -> Graph {
    let tests = only_for_tests(sources);
    let sources: Vec<&Source> = sources
        .iter()
        .filter(|source| !tests.contains(&source.module()))
        .collect();
    let files: BTreeMap<Vec<String>, &str> = sources
        .iter()
        .map(|source| (source.module(), source.name.as_str()))
        .collect();
    let imports: BTreeMap<Vec<String>, Vec<Import>> = sources
        .iter()
        .map(|source| (source.module(), imports(source)))
        .collect();
    let tree = Tree { files, imports };
    let mut graph = Graph::new();
    for source in &sources {
        let own = source.module();
        let mut named: BTreeSet<String> = BTreeSet::new();
        let words = words(source);
        for import in &tree.imports[&own] {
            let path = tree.absolute(&own, &import.path);
            let is_own = import.is_public && path.as_ref().is_some_and(|path| path.starts_with(&own));
            let is_interface = is_own && !words.contains(import.name.as_str());
            if let Some(path) = path.filter(|_| !is_interface) {
                named.insert(tree.file(&path, 0).to_owned());
            }
        }
        for path in inline_paths(source) {
            if let Some(path) = tree.absolute(&own, &path) {
                named.insert(tree.file(&path, 0).to_owned());
            }
        }
        named.remove(&source.name);
        graph.insert(source.name.clone(), named);
    }
    graph
}

/// The modules that are declared with `#[cfg(test)]` and have a file of their own.
fn only_for_tests(sources: &[Source]) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for source in sources {
        let lines: Vec<&str> = source.text.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            if let Some(name) = pair[1].strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
                let mut module = source.module();
                module.push(name.to_owned());
                found.insert(module);
            }
        }
    }
    found
}

struct Tree<'s> {
    files: BTreeMap<Vec<String>, &'s str>,
    imports: BTreeMap<Vec<String>, Vec<Import>>,
}

impl Tree<'_> {
    /// Resolves `path`, as written in module `own`, from the root of the crate; `None` for a path into another crate.
    fn absolute(&self, own: &[String], path: &[String]) -> Option<Vec<String>> {
        self.plain(own, path).or_else(|| {
            // Its first word may be a module that the file imports.
            let module = self.imports.get(own)?.iter().find(|import| import.name == path[0])?;
            let mut base = self.plain(own, &module.path)?;
            base.extend_from_slice(&path[1..]);
            Some(base)
        })
    }

    /// The same without the imports of `own`.
    fn plain(&self, own: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut base = own.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            // `main.rs` names the library by its name.
            "crate" | "jwtmesh" => {
                base.clear();
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
                if !self.files.contains_key(&base) {
                    return None;
                }
                rest = &path[1..];
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// The file that defines what `path` names.
    fn file(&self, path: &[String], depth: usize) -> &str {
        assert!(depth < 16, "a cycle of re-exports: {path:?}");
        let mut module: Vec<String> = Vec::new();
        let mut rest = path;
        while let Some(next) = rest.first() {
            module.push(next.clone());
            if !self.files.contains_key(&module) {
                module.pop();
                break;
            }
            rest = &rest[1..];
        }
        let reexport = rest.first().and_then(|name| {
            let mut found = self.imports.get(&module)?.iter();
            found.find(|import| import.is_public && import.name == *name)
        });
        if let Some(path) = reexport.and_then(|import| self.absolute(&module, &import.path))
            && path.first() == module.first()
        {
            return self.file(&path, depth + 1);
        }
        self.files.get(&module).copied().unwrap_or("lib.rs")
    }
}

/// The imports of a file, one for each imported name.
fn imports(source: &Source) -> Vec<Import> {
    let mut found = Vec::new();
    let mut statement: Option<String> = None;
    for (_, line) in source.code() {
        let line = line.trim();
        if statement.is_none() && !is_use(line) {
            continue;
        }
        let mut text = statement.take().unwrap_or_default();
        text.push_str(line);
        let Some(end) = text.find(';') else {
            statement = Some(text);
            continue;
        };
        let is_public = text.starts_with("pub");
        let at = text.find("use ").expect("it is a use") + 4;
        for path in expand(&text[at..end]) {
            let (path, alias) = path
                .split_once(" as ")
                .map_or((path.as_str(), None), |(p, a)| (p, Some(a)));
            let mut parts: Vec<String> = path.split("::").map(|part| part.trim().to_owned()).collect();
            if parts.last().is_some_and(|last| last == "self" || last == "*") {
                parts.pop();
            }
            let name = alias.map_or_else(|| parts.last().cloned().unwrap_or_default(), |a| a.trim().to_owned());
            found.push(Import {
                path: parts,
                name,
                is_public,
            });
        }
    }
    found
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expand(text: &str) -> Vec<String> {
    let text = text.trim();
    let Some(open) = text.find('{') else {
        return vec![text.to_owned()];
    };
    let (before, inner) = (&text[..open], text[open + 1..].strip_suffix('}').expect("braces match"));
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    parts
        .into_iter()
        .filter(|part| !part.trim().is_empty())
        .flat_map(|part| expand(part).into_iter().map(|rest| format!("{before}{rest}")))
        .collect()
}

/// The names that a file uses by themselves, outside of `use` lines: neither a method or field, nor one that it
/// defines.
fn words(source: &Source) -> BTreeSet<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let defines = ["fn ", "mod ", "struct ", "enum ", "type ", "const ", "."];
    let mut found = BTreeSet::new();
    for (_, line) in source.code().filter(|(_, line)| !is_use(line)) {
        let mut rest = line;
        while let Some(start) = rest.find(is_word) {
            let length = rest[start..].find(|c| !is_word(c)).unwrap_or(rest.len() - start);
            let before = &line[..line.len() - rest.len() + start];
            if !defines.iter().any(|word| before.ends_with(word)) {
                found.insert(&rest[start..start + length]);
            }
            rest = &rest[start + length..];
        }
    }
    found
}

/// Paths outside of `use` lines: `crate::a::B`, `super::B`, and `child::f` of a module that the file declares.
fn inline_paths(source: &Source) -> Vec<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for (_, line) in source.code() {
        // `pub(in crate::room)` limits visibility and is not a dependency.
        let (before, after) = line.split_once("pub(in ").unwrap_or((line, ""));
        let line = format!("{before} {}", after.split_once(')').map_or("", |(_, after)| after));
        if is_use(&line) {
            continue;
        }
        let words = line.split(|c: char| !is_word(c));
        let paths = words.filter(|word| word.contains("::") && !word.starts_with(':'));
        let parts = |path: &str| {
            path.split("::")
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()
        };
        found.extend(paths.map(parts));
    }
    found
}
