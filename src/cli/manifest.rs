//! Manifests as kubectl takes and gives them: files, folders and stdin, YAML with several documents or JSON.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::error::Error;
use super::ordered::Ordered;
use super::output::{warn, write};
use super::parse::{decode, parse};

/// What kubectl takes from a folder.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// The file that it is from; `-` is stdin.
    pub(crate) path: String,
    pub(crate) body: Ordered,
}

/// `-f` and `-R`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FileArgs {
    /// Manifests: files, folders, or - for stdin
    #[arg(short, long, required = true, value_name = "FILE")]
    pub(crate) filename: Vec<String>,
    /// Read folders with the folders in them
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
}

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Documents, separated by `---`.
    #[default]
    Yaml,
    /// Objects, one after the other.
    Json,
}

impl FileArgs {
    /// All documents, in the order of the arguments, the names in a folder, the places in a file. That there are none is
    /// an error, which names the verb.
    pub(crate) fn read(&self, verb: &str) -> Result<Vec<Document>, Error> {
        let mut documents = Vec::new();
        for name in &self.filename {
            documents.extend(read(name, self.recursive)?);
        }
        if documents.is_empty() {
            return Err(Error::Input(format!("no objects passed to {verb}")));
        }
        Ok(documents)
    }
}

/// The documents of a file, of the files in a folder, or of stdin for `-`.
pub(crate) fn read(name: &str, recursive: bool) -> Result<Vec<Document>, Error> {
    let mut documents = Vec::new();
    for path in files(name, recursive)? {
        let bytes = read_bytes(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let parsed = parse(&decode(&bytes)).map_err(|message| Error::Parse { path: path.clone(), message })?;
        parsed.warnings.iter().for_each(|warning| warn(format_args!("{path}: {warning}")));
        if !parsed.bodies.iter().all(Ordered::is_object) {
            return Err(Error::Input(format!(
                "{path}: a document is no object: write one object or List per document"
            )));
        }
        documents.extend(parsed.bodies.into_iter().map(|body| Document { path: path.clone(), body }));
    }
    Ok(documents)
}

fn read_bytes(path: &str) -> std::io::Result<Vec<u8>> {
    if path != "-" {
        return std::fs::read(path);
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
}

fn files(name: &str, recursive: bool) -> Result<Vec<String>, Error> {
    let path = Path::new(name);
    if name == "-" || !path.is_dir() {
        return Ok(vec![name.to_owned()]);
    }
    let all = |recursive| collect(path, recursive).map_err(|source| Error::Read { path: name.to_owned(), source });
    let mut found = all(recursive)?;
    if found.is_empty() {
        let hint = if all(true)?.is_empty() { "" } else { "; its subfolders do: add -R" };
        return Err(Error::Input(format!("{name} has no files that end in .json, .yaml or .yml{hint}")));
    }
    found.sort();
    Ok(found.iter().map(|path| path.to_string_lossy().into_owned()).collect())
}

fn collect(folder: &Path, recursive: bool) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if recursive {
                found.extend(collect(&path, recursive)?);
            }
        } else if path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known)) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Writes objects to stdout, so that kubectl reads back what they are.
pub(crate) fn print<T: Serialize>(objects: &[T], format: Format) -> Result<ExitCode, Error> {
    write(&render(objects, format)?)?;
    Ok(ExitCode::SUCCESS)
}

fn render<T: Serialize>(objects: &[T], format: Format) -> Result<String, Error> {
    // A long line stays one line: folding is where YAML readers differ.
    let options = || serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let texts = objects.iter().map(|object| match format {
        Format::Yaml => serde_saphyr::to_string_with_options(object, options()).map_err(|error| error.to_string()),
        Format::Json => serde_json::to_string_pretty(object).map(|text| text + "\n").map_err(|error| error.to_string()),
    });
    let texts: Vec<String> = texts.collect::<Result<_, _>>().map_err(Error::Write)?;
    Ok(texts.join(if format == Format::Yaml { "---\n" } else { "" }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn yaml(text: &str) -> Vec<Ordered> {
        parse(text).unwrap().bodies
    }

    #[test]
    fn fields_and_documents_keep_their_order_and_empty_documents_go() {
        let text = "kind: B\napiVersion: v1\n---\n# nothing\n---\nz: 1\na:\n- c: 1\n  b: 2\n";
        assert_eq!(
            render(&yaml(text), Format::Yaml).unwrap(),
            "kind: B\napiVersion: v1\n---\nz: 1\na:\n- c: 1\n  b: 2\n"
        );
    }

    #[test]
    fn strings_stay_strings_and_numbers_numbers() {
        let words = [
            "yes",
            "no",
            "on",
            "y",
            "1e3",
            "0644",
            "0x1F",
            "1_000",
            "null",
            "~",
            "12:30:45",
            "2026-01-01",
            "",
            "true",
            ".5",
            "1.0",
            "a: b",
            " x",
            "#c",
            "line\nbreak\n",
            "- a",
            "=",
            "<<",
            "{{ x }}",
            "%",
            "\t",
        ];
        let objects =
            vec![Ordered::from(json!({"words": words, "numbers": [1, 1.5, -3, u64::MAX], "b": [true, null]}))];
        let text = render(&objects, Format::Yaml).unwrap();
        assert_eq!(yaml(&text), objects, "{text}");
        let text = render(&objects, Format::Json).unwrap();
        assert_eq!(yaml(&text), objects, "{text}");
    }

    #[test]
    fn what_was_there_keeps_its_place_when_a_list_grows() {
        let before = &yaml("spec:\n  containers:\n  - name: app\n    image: a\n    args: [x]\n")[0];
        let mut after = before.value();
        after["spec"]["containers"] =
            json!([{"name": "new", "image": "i"}, {"args": ["x"], "image": "a", "name": "app"}]);
        after["spec"]["a"] = json!(1);
        let text = render(&[before.arrange(after)], Format::Yaml).unwrap();
        assert_eq!(
            text,
            "spec:\n  containers:\n  - image: i\n    name: new\n  - name: app\n    image: a\n    args:\n    - x\n  a: 1\n"
        );
    }
}
