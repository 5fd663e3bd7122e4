//! Names of users and groups, from the two files of this host.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{Account, Member, MemberKind};

/// Longest file that is read: a host with a hundred thousand accounts has one of 6 MB.
const FILE_MOST: u64 = 16 << 20;

/// The names in `/etc/passwd` and `/etc/group`.
///
/// Nobody else is asked: what answers getpwnam(3) besides (LDAP, systemd's own users) are libraries that a static
/// executable cannot load. A user who is known there only is named by number; the groups that such a user is in count
/// all the same, for the kernel tells them with each connection.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: Vec<(String, u32)>,
    groups: Vec<(String, u32)>,
}

impl Accounts {
    /// This host's.
    ///
    /// # Errors
    /// A file cannot be read. One that is not there has no names: a host need not have any.
    pub fn of_this_host() -> io::Result<Self> {
        Ok(Self {
            users: names(&read(Path::new("/etc/passwd"))?),
            groups: names(&read(Path::new("/etc/group"))?),
        })
    }

    /// What the two files say.
    #[must_use]
    pub fn from_files(passwd: &str, group: &str) -> Self {
        Self { users: names(passwd), groups: names(group) }
    }

    /// A member's number.
    ///
    /// # Errors
    /// Nobody here has that name: says so, and what to do.
    pub fn number_of(&self, member: &Member) -> Result<u32, String> {
        let name = match &member.account {
            Account::Number(number) => return Ok(*number),
            Account::Name(name) => name,
        };
        let (accounts, file) = match member.kind {
            MemberKind::User => (&self.users, "/etc/passwd"),
            MemberKind::Group => (&self.groups, "/etc/group"),
        };
        let found = accounts.iter().find(|(known, _)| known == name);
        found.map(|(_, number)| *number).ok_or_else(|| {
            let word = member.kind.word();
            format!(
                "{file} has no {word} {name}; correct the name, or write the number, {word}:NUMBER, \
                 if another service knows it"
            )
        })
    }
}

fn read(path: &Path) -> io::Result<String> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(named(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_MOST + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() as u64 > FILE_MOST {
        return Err(named(io::Error::other(format!("longer than {FILE_MOST} bytes"))));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `name:password:number:…`, the form of both files (passwd(5), group(5)). Other lines have no account for us: comments,
/// and the `+` and `-` lines that stand for a network's accounts.
fn names(file: &str) -> Vec<(String, u32)> {
    let account = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number = fields.nth(1)?;
        let is_name = !name.is_empty() && !name.starts_with(['#', '+', '-']);
        let number = number.parse().ok().filter(|number| *number != u32::MAX)?;
        is_name.then(|| (name.to_owned(), number))
    };
    file.lines().filter_map(account).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "\
root:x:0:0:root:/:/bin/sh
# a comment:x:5:5
alice:x:1000:1000:Alice,,,:/a:/bin/sh
+::7:7:::
-bob:x:8:8:::
nameless
:x:9:9:::
wrong:x:nine:9:::
worse:x:4294967295:9:::
alice:x:1001:1001:the first counts:/:
";

    fn number(text: &str) -> Result<u32, String> {
        let accounts = Accounts::from_files(PASSWD, "root:x:0:\nkvm:x:104:alice,bob\n");
        accounts.number_of(&text.parse().unwrap())
    }

    #[test]
    fn names_have_the_numbers_of_the_files() {
        assert_eq!(number("user:root"), Ok(0));
        assert_eq!(number("user:alice"), Ok(1000));
        assert_eq!(number("group:kvm"), Ok(104));
        assert_eq!(number("group:4711"), Ok(4711));
    }

    #[test]
    fn a_name_that_is_not_there_is_named_with_its_file_and_the_way_out() {
        for unknown in
            ["user:kvm", "user:bob", "user:+", "user:wrong", "user:worse", "user:nameless"]
        {
            let error = number(unknown).unwrap_err();
            assert!(error.contains("/etc/passwd") && error.contains("user:NUMBER"), "{error}");
        }
        assert!(number("group:alice").unwrap_err().contains("/etc/group has no group alice"));
    }

    #[test]
    fn this_hosts_root_is_number_0() {
        let accounts = Accounts::of_this_host().unwrap();
        if Path::new("/etc/passwd").exists() {
            assert_eq!(accounts.number_of(&"user:root".parse().unwrap()), Ok(0));
        }
    }

    #[test]
    fn a_file_without_an_end_is_not_read_to_it() {
        let error = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("/dev/zero") && error.contains("longer than"), "{error}");
    }
}
