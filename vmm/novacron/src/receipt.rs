//! `novacron receipt`: what both hosts of a move have signed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use control::api::{Receipt, ReceiptStatement};
use dwcp::transport::PublicKey;

use crate::Failure;
use crate::cli::OutputForm;
use crate::connect::connect;
use crate::globals::Globals;
use crate::machines::milliseconds;
use crate::output::{print, print_json};
use crate::table::Table;

/// Digits of a key in a table: enough to tell hosts apart, and too few to trust one.
const KEY_DIGITS: usize = 12;
/// A receipt has less than a thousand bytes.
const FILE_MAX_BYTES: u64 = 1 << 16;
/// What is wrong with a file is said in so many characters.
const WRONG_MAX_CHARS: usize = 500;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    novacron receipt list\n  \
    novacron receipt show 00112233445566778899aabbccddeeff > web.receipt\n  \
    novacron receipt verify web.receipt --from KEY --to KEY   needs no daemon; exit code 1 if anything is wrong\n\n\
    A receipt proves what the holders of two keys have signed. Whose keys they are, `novacron info` says on each host.")]
pub(crate) struct ReceiptOptions {
    #[command(subcommand)]
    verb: ReceiptVerb,
}

#[derive(Debug, Subcommand)]
enum ReceiptVerb {
    /// Show the receipts of this host, the newest first
    List {
        /// For people or for programs
        #[arg(long, value_name = "FORM", default_value = "text")]
        output: OutputForm,
    },
    /// Print a receipt, as a file to keep
    Show {
        /// The session of its move
        session: String,
    },
    /// Check receipts, without a daemon
    Verify(VerifyOptions),
}

#[derive(Debug, Args)]
struct VerifyOptions {
    /// Files as `novacron receipt show` prints them; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    hosts: Hosts,
}

/// Which hosts a receipt has to be of.
#[derive(Clone, Copy, Debug, Default, Args)]
struct Hosts {
    /// The key of the host that the machine has to have left
    #[arg(long, value_name = "KEY")]
    from: Option<PublicKey>,
    /// The key of the host that it has to have gone to
    #[arg(long, value_name = "KEY")]
    to: Option<PublicKey>,
}

pub(crate) fn receipt(options: &ReceiptOptions, globals: &Globals) -> Result<(), Failure> {
    match &options.verb {
        ReceiptVerb::List { output } => list(*output, globals),
        ReceiptVerb::Show { session } => {
            let path = format!("/v1/receipts/{session}");
            print_json(&connect(globals)?.get::<Receipt>(&path)?)
        }
        ReceiptVerb::Verify(options) => verify(options),
    }
}

fn list(form: OutputForm, globals: &Globals) -> Result<(), Failure> {
    let receipts: Vec<Receipt> = connect(globals)?.get("/v1/receipts")?;
    match form {
        OutputForm::Json => print_json(&receipts),
        OutputForm::Text => print(&table(receipts).to_string()),
    }
}

fn table(receipts: Vec<Receipt>) -> Table {
    let mut table =
        Table::new(&["ENDED", "MACHINE", "FROM", "TO", "GENERATION", "BLACKOUT", "SESSION"]);
    let short = |key: &str| key.chars().take(KEY_DIGITS).collect::<String>();
    for Receipt { statement, .. } in receipts {
        table.row(vec![
            statement.ended_at.to_string(),
            statement.machine,
            short(&statement.from),
            short(&statement.to),
            statement.generation,
            milliseconds(statement.blackout_ns),
            statement.session,
        ]);
    }
    table
}

fn verify(options: &VerifyOptions) -> Result<(), Failure> {
    let (text, wrong) = judge_all(options);
    print(&text)?;
    match wrong {
        0 => Ok(()),
        wrong => Err(Failure::Other(format!("wrong files: {wrong} of {}", options.files.len()))),
    }
}

/// A line a file, and how many files are wrong.
fn judge_all(VerifyOptions { files, hosts }: &VerifyOptions) -> (String, usize) {
    let (mut text, mut wrong) = (String::new(), 0);
    for path in files {
        let file = path.display();
        let judged = read(path).and_then(|bytes| judge(&bytes, *hosts));
        text += &match judged {
            Ok(moved) => format!("ok: {moved} ({file})\n"),
            Err(why) => {
                wrong += 1;
                format!("wrong: {file}: {}\n", harmless(&why))
            }
        };
    }
    (text, wrong)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes))
    };
    match read {
        Err(error) => Err(format!("{error}; is the path right?")),
        Ok(_) if bytes.len() as u64 > FILE_MAX_BYTES => {
            Err(format!("it has more than {FILE_MAX_BYTES} bytes, and so is no receipt"))
        }
        Ok(_) => Ok(bytes),
    }
}

/// What a receipt proves, if it is one, and of these hosts.
fn judge(bytes: &[u8], hosts: Hosts) -> Result<String, String> {
    let receipt: Receipt =
        serde_json::from_slice(bytes).map_err(|error| format!("it is no receipt: {error}"))?;
    receipt.verify().map_err(|error| error.to_string())?;
    let ReceiptStatement { machine, from, to, generation, root, blackout_ns, .. } =
        receipt.statement;
    let is = |end: &str, key: &str, wanted: Option<PublicKey>| match wanted {
        Some(wanted) if wanted.to_string() != key => {
            Err(format!("both hosts have signed it, but it is of a move {end} {key}, not {wanted}"))
        }
        _ => Ok(()),
    };
    is("from", &from, hosts.from)?;
    is("to", &to, hosts.to)?;
    let blackout = milliseconds(blackout_ns);
    Ok(format!(
        "machine {machine} moved from {from} to {to}, generation {generation}, root {root}, blackout {blackout}"
    ))
}

/// What a file made somebody say does nothing to the terminal of whoever reads it.
fn harmless(text: &str) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(WRONG_MAX_CHARS).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use control::api::{ReceiptAudit, Timestamp};
    use dwcp::transport::KeyPair;

    use super::*;

    fn keys() -> KeyPair {
        KeyPair::from_pkcs8(&KeyPair::generate().unwrap()).unwrap()
    }

    fn receipt(from: &KeyPair, to: &KeyPair) -> Receipt {
        let statement = ReceiptStatement {
            session: "01".repeat(16),
            machine: "02".repeat(16),
            from: from.public().to_string(),
            to: to.public().to_string(),
            generation: "0.1".to_owned(),
            root: "03".repeat(64),
            blackout_ns: 12_345_678,
            audit: ReceiptAudit::None,
            ended_at: Timestamp::now(),
        };
        let (signature_from, signature_to) = (statement.sign(from), statement.sign(to));
        Receipt::new(statement, signature_from, signature_to)
    }

    fn written(receipt: &Receipt) -> Vec<u8> {
        serde_json::to_vec_pretty(receipt).unwrap()
    }

    #[test]
    fn a_good_receipt_says_what_it_proves() {
        let (from, to) = (keys(), keys());
        let said = judge(&written(&receipt(&from, &to)), Hosts::default()).unwrap();
        let expected = format!(
            "machine {} moved from {} to {}, generation 0.1, root {}, blackout 12.34 ms",
            "02".repeat(16),
            from.public(),
            to.public(),
            "03".repeat(64)
        );
        assert_eq!(said, expected);
    }

    #[test]
    fn an_altered_receipt_and_what_is_none_are_wrong() {
        let (from, to) = (keys(), keys());
        let good = receipt(&from, &to);
        let judge = |bytes: &[u8]| judge(bytes, Hosts::default()).unwrap_err();
        let mut altered = good.clone();
        altered.statement.blackout_ns -= 1;
        assert!(judge(&written(&altered)).contains("altered"));
        let forged = Receipt { signature_to: good.statement.sign(&keys()), ..good.clone() };
        let why = judge(&written(&forged));
        assert!(why.contains("went to") && why.contains(&to.public().to_string()), "{why}");
        for bytes in [&b""[..], b"{}", b"[1]", b"\xff", &written(&good)[1..]] {
            assert!(judge(bytes).starts_with("it is no receipt: "));
        }
    }

    #[test]
    fn a_receipt_of_other_hosts_is_wrong_where_hosts_are_demanded() {
        let (from, to, other) = (keys(), keys(), keys().public());
        let bytes = written(&receipt(&from, &to));
        let (from, to) = (from.public(), to.public());
        for (hosts, why) in [
            (Hosts { from: None, to: None }, None),
            (Hosts { from: Some(from), to: None }, None),
            (Hosts { from: Some(from), to: Some(to) }, None),
            (Hosts { from: Some(other), to: Some(to) }, Some(format!("from {from}, not {other}"))),
            (Hosts { from: Some(from), to: Some(other) }, Some(format!("to {to}, not {other}"))),
            (Hosts { from: Some(to), to: Some(from) }, Some(format!("from {from}, not {to}"))),
        ] {
            match (judge(&bytes, hosts), why) {
                (Ok(_), None) => {}
                (Err(said), Some(why)) => assert!(said.contains(&why), "{said}"),
                (judged, _) => panic!("{hosts:?}: {judged:?}"),
            }
        }
    }

    #[test]
    fn one_wrong_file_of_several_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let (good, wrong) = (folder.path().join("good"), folder.path().join("wrong"));
        std::fs::write(&good, written(&receipt(&keys(), &keys()))).unwrap();
        std::fs::write(&wrong, "{").unwrap();
        let judge_all = |files: &[&Path]| {
            let files = files.iter().map(|path| (*path).to_owned()).collect();
            judge_all(&VerifyOptions { files, hosts: Hosts::default() })
        };
        let (said, count) = judge_all(&[&good, &good]);
        assert_eq!((said.matches("ok: machine ").count(), count), (2, 0), "{said}");
        let (said, count) = judge_all(&[&wrong, &good, &folder.path().join("nowhere")]);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!((lines.len(), count), (3, 2), "{said}");
        assert!(lines[0].starts_with(&format!("wrong: {}: it is no receipt", wrong.display())));
        assert!(lines[1].starts_with("ok: ") && lines[2].contains("No such file"), "{said}");
        let (files, hosts) = (vec![wrong], Hosts::default());
        let failure = verify(&VerifyOptions { files, hosts }).unwrap_err();
        assert_eq!(failure.exit_code(), crate::exit_code::FAILED);
    }

    #[test]
    fn a_table_has_a_row_a_receipt_and_short_keys() {
        let (from, to) = (keys(), keys());
        let text = table(vec![receipt(&from, &to)]).to_string();
        let (from, to) = (from.public().to_string(), to.public().to_string());
        assert!(text.contains(&format!("  {}  {}  0.1 ", &from[..12], &to[..12])), "{text}");
        assert!(text.contains("12.34 ms") && text.contains(&"01".repeat(16)), "{text}");
    }

    #[test]
    fn what_a_file_says_does_nothing_to_a_terminal() {
        let why = judge(b"{\"\\u001b[2J\": 1}", Hosts::default()).unwrap_err();
        assert!(why.contains('\x1b') && !harmless(&why).contains('\x1b'));
        assert_eq!(harmless(&"x".repeat(1000)).len(), WRONG_MAX_CHARS);
    }
}
