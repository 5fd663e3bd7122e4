//! What the caller asked for.

/// Printed for `help`, and after a complaint.
pub(crate) const USAGE: &str = "\
cargo demo [ARGUMENT...]      build the executable and run its demonstration with these arguments
cargo verify [STEP...]        run every check and test, or only the steps named
  --all                       and the long run: full matrices, long simulations, fuzzing by time
  --keep-going                go on after a red step
cargo xtask fuzz [TARGET...]  fuzz every target, or those named
  --seconds N                 for how long each (60)
cargo xtask schemathesis      ask a daemon by the description of its API, as schemathesis does
  --examples N                how many requests of each kind for each call (100)
  --seed N                    those of an earlier run
cargo xtask bench PROGRAM [ARGUMENT...]
                              install what measurements need, and run one: benches/README.md
cargo xtask coverage          lines of the protocol's core that its tests reach";

/// How long a fuzz target runs if nobody says otherwise, in seconds.
const FUZZ_SECONDS: u32 = 60;

/// Requests of schemathesis if nobody says otherwise: two minutes.
const EXAMPLES: u32 = 100;

/// One of the program's verbs with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Print the usage.
    Help,
    /// Build and run the demonstration; the arguments are the executable's.
    Demo(Vec<String>),
    /// Run the checks.
    Verify(VerifyOptions),
    /// Run fuzz targets.
    Fuzz(FuzzOptions),
    /// Run schemathesis.
    Schemathesis(SchemathesisOptions),
    /// Run a measurement, with its arguments.
    Bench {
        /// The program's name.
        program: String,
        /// The program's own.
        arguments: Vec<String>,
    },
    /// Tell which lines tests reach.
    Coverage,
}

/// Arguments of `verify`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct VerifyOptions {
    /// Whether the long run follows.
    pub(crate) all: bool,
    /// Whether a red step does not end the run.
    pub(crate) keep_going: bool,
    /// Names of the steps to run; empty means every one.
    pub(crate) only: Vec<String>,
}

/// Arguments of `fuzz`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FuzzOptions {
    /// Names of the targets to run; empty means every one.
    pub(crate) only: Vec<String>,
    /// How long each runs.
    pub(crate) seconds: u32,
}

/// Arguments of `schemathesis`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SchemathesisOptions {
    /// Requests of each kind for each call.
    pub(crate) examples: u32,
    /// What they are drawn from; another each time if absent.
    pub(crate) seed: Option<u128>,
}

impl Verb {
    /// The verb that these arguments spell.
    ///
    /// # Errors
    /// The complaint to print above the usage.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let Some((verb, rest)) = arguments.split_first() else {
            return Err("a verb is missing".to_owned());
        };
        match verb.as_str() {
            "demo" => Ok(Self::Demo(rest.to_vec())),
            "help" | "--help" | "-h" => Ok(Self::Help),
            "verify" | "fuzz" | "schemathesis"
                if rest.iter().any(|word| word == "--help" || word == "-h") =>
            {
                Ok(Self::Help)
            }
            "verify" => verify(rest).map(Self::Verify),
            "fuzz" => fuzz(rest).map(Self::Fuzz),
            "schemathesis" => schemathesis(rest).map(Self::Schemathesis),
            "bench" => match rest.split_first() {
                Some((program, arguments)) if !program.starts_with('-') => {
                    Ok(Self::Bench { program: program.clone(), arguments: arguments.to_vec() })
                }
                _ => Err("bench needs the name of a program of `benches`".to_owned()),
            },
            "coverage" => match rest.first() {
                None => Ok(Self::Coverage),
                Some(word) => Err(format!("coverage takes no argument, not `{word}`")),
            },
            other => Err(format!("there is no verb `{other}`")),
        }
    }
}

fn verify(arguments: &[String]) -> Result<VerifyOptions, String> {
    let mut options = VerifyOptions::default();
    for argument in arguments {
        match argument.as_str() {
            "--all" => options.all = true,
            "--keep-going" => options.keep_going = true,
            flag if flag.starts_with('-') => return Err(unknown(flag)),
            step => options.only.push(step.to_owned()),
        }
    }
    Ok(options)
}

fn fuzz(arguments: &[String]) -> Result<FuzzOptions, String> {
    let mut options = FuzzOptions { only: Vec::new(), seconds: FUZZ_SECONDS };
    let mut words = arguments.iter();
    while let Some(argument) = words.next() {
        match argument.as_str() {
            "--seconds" => {
                let number = words.next().ok_or("--seconds needs a number")?;
                options.seconds =
                    number.parse().ok().filter(|seconds| *seconds > 0).ok_or_else(|| {
                        format!("--seconds needs a number above 0, not `{number}`")
                    })?;
            }
            flag if flag.starts_with('-') => return Err(unknown(flag)),
            target => options.only.push(target.to_owned()),
        }
    }
    Ok(options)
}

fn schemathesis(arguments: &[String]) -> Result<SchemathesisOptions, String> {
    let mut options = SchemathesisOptions { examples: EXAMPLES, seed: None };
    let mut words = arguments.iter();
    while let Some(argument) = words.next() {
        let mut number = || {
            let word = words.next().ok_or_else(|| format!("{argument} needs a number"))?;
            word.parse::<u128>().map_err(|_| format!("{argument} needs a number, not `{word}`"))
        };
        match argument.as_str() {
            "--examples" => {
                let count = u32::try_from(number()?).ok().filter(|count| *count > 0);
                options.examples = count.ok_or("--examples needs a number above 0")?;
            }
            "--seed" => options.seed = Some(number()?),
            other => return Err(unknown(other)),
        }
    }
    Ok(options)
}

fn unknown(flag: &str) -> String {
    format!("there is no option `{flag}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Verb, String> {
        Verb::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn each_verb_is_understood_with_its_options() {
        let verify = |all, keep_going, only: &[&str]| {
            let only = only.iter().map(|&name| name.to_owned()).collect();
            Verb::Verify(VerifyOptions { all, keep_going, only })
        };
        let fuzz = |only: &[&str], seconds| {
            let only = only.iter().map(|&name| name.to_owned()).collect();
            Verb::Fuzz(FuzzOptions { only, seconds })
        };
        for (line, expected) in [
            ("help", Verb::Help),
            ("verify --help", Verb::Help),
            ("demo --help", Verb::Demo(vec!["--help".to_owned()])),
            ("verify", verify(false, false, &[])),
            ("verify --all rules --keep-going", verify(true, true, &["rules"])),
            ("fuzz", fuzz(&[], 60)),
            ("coverage", Verb::Coverage),
            (
                "bench hde --times 1",
                Verb::Bench {
                    program: "hde".to_owned(),
                    arguments: vec!["--times".to_owned(), "1".to_owned()],
                },
            ),
            ("fuzz elf --seconds 5", fuzz(&["elf"], 5)),
            (
                "schemathesis --examples 7 --seed 238286825979817531220593890838169226461",
                Verb::Schemathesis(SchemathesisOptions {
                    examples: 7,
                    seed: Some(238_286_825_979_817_531_220_593_890_838_169_226_461),
                }),
            ),
        ] {
            assert_eq!(parse(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, word) in [
            ("", "verb"),
            ("prove", "prove"),
            ("verify --al", "--al"),
            ("bench", "program"),
            ("bench --times", "program"),
            ("fuzz --seconds", "--seconds"),
            ("fuzz --seconds 0", "`0`"),
            ("coverage dwcp", "`dwcp`"),
            ("fuzz --seconds ten", "`ten`"),
            ("schemathesis --examples 0", "above 0"),
            ("schemathesis --seed x", "`x`"),
            ("schemathesis info", "`info`"),
        ] {
            let complaint = parse(line).unwrap_err();
            assert!(complaint.contains(word), "{line}: {complaint}");
        }
    }
}
