//! What a caller is to the daemon.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Accounts, Caller, Member, MemberKind};

/// What somebody may do. A higher role may whatever a lower one may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Starts, stops, moves machines, and uses their consoles.
    Operator,
    /// Anything, and sees who did what.
    Admin,
}

impl Role {
    /// All, from the least to the highest.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// Its word, in the configuration and in the audit log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who has which role, by number.
///
/// Root and the daemon's own user are admins whatever the configuration says: either could replace the daemon.
#[derive(Clone, Debug)]
pub struct Roles {
    own_uid: u32,
    members: Vec<(Role, MemberKind, u32)>,
}

impl Roles {
    /// The roles in a daemon of user `own_uid` that gives members none but the admins of itself.
    #[must_use]
    pub fn new(own_uid: u32) -> Self {
        Self { own_uid, members: Vec::new() }
    }

    /// Gives a member a role.
    ///
    /// # Errors
    /// The member has a name that is not in this host's files.
    pub fn give(&mut self, role: Role, member: &Member, accounts: &Accounts) -> Result<(), String> {
        self.members.push((role, member.kind, accounts.number_of(member)?));
        Ok(())
    }

    /// A caller's role, the highest if there are several. Most people on a host have none.
    #[must_use]
    pub fn of(&self, caller: &Caller) -> Option<Role> {
        if caller.uid == 0 || caller.uid == self.own_uid {
            return Some(Role::Admin);
        }
        let is_it = |(_, kind, number): &&(Role, MemberKind, u32)| match kind {
            MemberKind::User => caller.uid == *number,
            MemberKind::Group => caller.is_in_group(*number),
        };
        self.members.iter().filter(is_it).map(|(role, ..)| *role).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 500;

    fn roles(given: &[(Role, &str)]) -> Roles {
        let accounts = Accounts::from_files("alice:x:1000:1000", "kvm:x:104:");
        let mut roles = Roles::new(OWN);
        for (role, member) in given {
            roles.give(*role, &member.parse().unwrap(), &accounts).unwrap();
        }
        roles
    }

    fn caller(uid: u32, gid: u32, groups: &[u32]) -> Caller {
        Caller { uid, gid, groups: groups.to_vec(), pid: None }
    }

    #[test]
    fn a_higher_role_may_more() {
        assert!(Role::ALL.is_sorted());
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }

    #[test]
    fn without_a_configuration_only_root_and_the_daemons_user_have_a_role() {
        let roles = roles(&[]);
        assert_eq!(roles.of(&caller(0, 5, &[])), Some(Role::Admin));
        assert_eq!(roles.of(&caller(OWN, 5, &[])), Some(Role::Admin));
        // The group of either is not its user.
        assert_eq!(roles.of(&caller(1000, 0, &[0, OWN])), None);
        assert_eq!(roles.of(&caller(u32::MAX, 1000, &[])), None);
    }

    #[test]
    fn users_and_groups_have_the_highest_role_that_they_were_given() {
        use Role::{Admin, Operator, Viewer};
        let given = [
            (Viewer, "group:100"),
            (Operator, "group:kvm"),
            (Viewer, "user:alice"),
            (Admin, "user:7"),
            (Viewer, "user:0"),
        ];
        let roles = roles(&given);
        for (caller, role) in [
            (caller(1000, 1, &[]), Some(Viewer)),
            (caller(1000, 104, &[]), Some(Operator)),
            (caller(1000, 1, &[2, 104]), Some(Operator)),
            (caller(1001, 1, &[100]), Some(Viewer)),
            (caller(1001, 1, &[104, 100]), Some(Operator)),
            (caller(7, 1, &[100]), Some(Admin)),
            // The numbers of users and of groups have nothing to do with each other.
            (caller(104, 1, &[]), None),
            (caller(1001, 7, &[1000]), None),
            // A lower role takes nothing from root.
            (caller(0, 0, &[100]), Some(Admin)),
        ] {
            assert_eq!(roles.of(&caller), role, "{caller:?}");
        }
    }

    #[test]
    fn nobody_gets_a_role_under_a_name_that_is_not_there() {
        let error =
            Roles::new(OWN).give(Role::Admin, &"user:bob".parse().unwrap(), &Accounts::default());
        assert!(error.unwrap_err().contains("no user bob"));
    }
}
