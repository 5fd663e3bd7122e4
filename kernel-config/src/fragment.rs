//! One fragment: settings in the kernel's own `.config` syntax, each under its reason.

use thiserror::Error;

/// What a fragment asks of one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `# CONFIG_NAME is not set`: the option is off.
    Off,
    /// `CONFIG_NAME=text`, as written, quotes included.
    Set(String),
}

/// One option, what is asked of it and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// With its prefix: `CONFIG_KVM`.
    pub name: String,
    /// On with a value, or off.
    pub value: Value,
    /// The comment directly above, its lines joined.
    pub reason: String,
}

/// A fragment that parsed: every setting has a reason and none is there twice.
#[derive(Clone, Debug)]
pub struct Fragment {
    /// The file's name, for messages.
    pub name: String,
    /// In the file's order.
    pub settings: Vec<Setting>,
}

/// A fragment is ours: whatever is wrong with it is a mistake in this tree.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FragmentError {
    /// The line is neither a comment nor a setting.
    #[error(
        "{fragment}:{line}: `{text}` is neither a comment nor an option; write CONFIG_NAME=value"
    )]
    Unreadable {
        /// The fragment.
        fragment: String,
        /// Counted from 1.
        line: usize,
        /// The whole line.
        text: String,
    },
    /// The setting stands under no comment.
    #[error("{fragment}:{line}: {option} has no reason; write one as a comment directly above it")]
    WithoutReason {
        /// The fragment.
        fragment: String,
        /// Counted from 1.
        line: usize,
        /// The option.
        option: String,
    },
    /// The fragment sets one option a second time.
    #[error("{fragment}:{line}: {option} is set above already")]
    Repeated {
        /// The fragment.
        fragment: String,
        /// Counted from 1.
        line: usize,
        /// The option.
        option: String,
    },
}

impl Fragment {
    /// Reads a fragment.
    ///
    /// # Errors
    /// The first line that is not a comment, an empty line or a setting under its reason.
    pub fn parse(name: &str, text: &str) -> Result<Self, FragmentError> {
        let mut settings: Vec<Setting> = Vec::new();
        let mut reason: Vec<&str> = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let (fragment, line) = (name.to_owned(), index + 1);
            if text.is_empty() {
                reason.clear();
                continue;
            }
            let Some((option, value)) = setting(text) else {
                let Some(comment) = text.strip_prefix("# ") else {
                    return Err(FragmentError::Unreadable {
                        fragment,
                        line,
                        text: text.to_owned(),
                    });
                };
                reason.push(comment);
                continue;
            };
            let option = option.to_owned();
            if reason.is_empty() {
                return Err(FragmentError::WithoutReason { fragment, line, option });
            }
            if settings.iter().any(|earlier| earlier.name == option) {
                return Err(FragmentError::Repeated { fragment, line, option });
            }
            settings.push(Setting { name: option, value, reason: reason.join(" ") });
            reason.clear();
        }
        Ok(Self { name: name.to_owned(), settings })
    }
}

/// The option and the value that one line of a `.config` states, if it states one.
///
/// An option that is off is written as a comment there; that is the kernel's syntax, not ours.
pub(crate) fn setting(line: &str) -> Option<(&str, Value)> {
    let (name, value) = match line.strip_prefix("# ") {
        Some(comment) => (comment.strip_suffix(" is not set")?, Value::Off),
        None => {
            let (name, value) = line.split_once('=')?;
            (name, Value::Set(value.to_owned()))
        }
    };
    let symbol = name.strip_prefix("CONFIG_")?;
    let named = !symbol.is_empty()
        && symbol.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let valued = !matches!(&value, Value::Set(text) if text.is_empty() || text == "n");
    (named && valued).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Fragment, FragmentError> {
        Fragment::parse("x.config", text)
    }

    #[test]
    fn settings_carry_the_comment_above_them() {
        let fragment = parse("# Heading.\n\n# Two lines\n# of reason.\nCONFIG_A=y\n# Off.\n# CONFIG_B is not set\n# Text.\nCONFIG_C=\"x y\"\n").unwrap();
        let read: Vec<_> = fragment
            .settings
            .iter()
            .map(|setting| (setting.name.as_str(), setting.value.clone(), setting.reason.as_str()))
            .collect();
        assert_eq!(
            read,
            [
                ("CONFIG_A", Value::Set("y".into()), "Two lines of reason."),
                ("CONFIG_B", Value::Off, "Off."),
                ("CONFIG_C", Value::Set("\"x y\"".into()), "Text."),
            ]
        );
    }

    #[test]
    fn a_setting_without_a_comment_of_its_own_is_refused() {
        for text in
            ["CONFIG_A=y\n", "# Reason.\n\nCONFIG_A=y\n", "# Reason.\nCONFIG_B=y\nCONFIG_A=y\n"]
        {
            let Err(FragmentError::WithoutReason { option, .. }) = parse(text) else {
                panic!("{text:?} was accepted");
            };
            assert_eq!(option, "CONFIG_A");
        }
    }

    #[test]
    fn lines_that_the_kernel_would_ignore_are_refused() {
        // `=n` is among them: the kernel writes an option that is off as a comment, and a value
        // that can be written in two ways is compared wrongly sooner or later.
        for text in
            ["CONFIG_A", "CONFIG_A=", "CONFIG_A=n", " CONFIG_A=y", "KVM=y", "CONFIG_A B=y", "#x"]
        {
            let error = parse(&format!("# Reason.\n{text}\n")).unwrap_err();
            let expected = FragmentError::Unreadable {
                fragment: "x.config".into(),
                line: 2,
                text: text.into(),
            };
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn an_option_that_is_set_twice_in_one_fragment_is_refused() {
        let error = parse("# Why.\nCONFIG_A=y\n# Why not.\n# CONFIG_A is not set\n").unwrap_err();
        assert!(matches!(error, FragmentError::Repeated { line: 4, .. }), "{error}");
    }
}
