//! Which resource gets which database name. A name belongs to the resource that held it first, while that
//! exists and 30 days after. Whoever asks for a taken name gets one that says where it is from.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::cloud::Tags;
use crate::database::DatabaseKind;
use crate::name::DatabaseName;
use crate::report::NameConflict;

/// Tags that may ask for a name, the strongest first. They are read without being imported.
pub const NAME_TAGS: [&str; 3] = ["keystile.dev/name", "TeleportDatabaseName", "teleport.dev/database_name"];
/// What a reader's name ends in.
const READER: &str = "-reader";
/// Longest name that a tag may ask for: room for the reader's ending.
const MAX_ASKED: usize = 120;

/// The name that the tags ask for, if they do. An unusable one is the error: its text is a warning.
///
/// # Errors
/// What is wrong with the name.
pub fn asked_name(tags: &Tags) -> Result<Option<DatabaseName>, String> {
    let Some((key, value)) =
        NAME_TAGS.iter().find_map(|key| tags.get(*key).filter(|v| !v.is_empty()).map(|v| (key, v)))
    else {
        return Ok(None);
    };
    if value.len() > MAX_ASKED {
        return Err(format!(
            "tag {key} asks for a name of {} bytes; at most {MAX_ASKED} are allowed",
            value.len()
        ));
    }
    DatabaseName::parse(value.clone()).map(Some).map_err(|error| format!("tag {key}: {error}"))
}

/// A resource that wants a name.
#[derive(Debug, Clone)]
pub struct Claimant {
    /// Its ARN.
    pub arn: String,
    /// Its own id.
    pub id: DatabaseName,
    /// Its type.
    pub kind: DatabaseKind,
    /// Its region.
    pub region: String,
    /// Its account.
    pub account: String,
    /// The name that a tag asks for; its id otherwise.
    pub asked: Option<DatabaseName>,
    /// Whether it has a reader endpoint to name.
    pub reader: bool,
    /// Position of its matcher.
    pub matcher: usize,
}

impl Claimant {
    fn wanted(&self) -> &DatabaseName {
        self.asked.as_ref().unwrap_or(&self.id)
    }

    /// `<its own id>-<type>-<region>-<account>`
    fn fallback(&self) -> String {
        format!("{}-{}-{}-{}", self.id, self.kind.as_str(), self.region, self.account)
    }
}

/// The names of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Of the resource's own endpoint.
    pub name: DatabaseName,
    /// Of its reader endpoint.
    pub reader: Option<DatabaseName>,
}

/// What naming decided.
#[derive(Debug, Clone, Default)]
pub struct Naming {
    /// By ARN. A resource that is missing has no legal name at all.
    pub given: HashMap<String, Given>,
    /// Names that are claimed from now on, with their holder; the ones that were held already included.
    pub claimed: BTreeMap<DatabaseName, String>,
    /// Who did not get the name it asked for.
    pub conflicts: Vec<NameConflict>,
}

/// Hands out names. `held` is who holds a name now (claims that have run out left out), `taken` the names of
/// static databases. Resources without a claim come in this order: home account first, then by matcher,
/// region and ARN; readers come after all resources' own names.
#[must_use]
pub fn assign(
    claimants: &[Claimant],
    held: &BTreeMap<String, String>,
    taken: &BTreeSet<String>,
    home_account: &str,
) -> Naming {
    let mut order: Vec<&Claimant> = claimants.iter().collect();
    order.sort_by_key(|c| (c.account != home_account, c.matcher, c.region.clone(), c.arn.clone()));
    let mut naming = Naming::default();
    for claimant in &order {
        let wanted = claimant.wanted().clone();
        let name = match naming.holder(&wanted, claimant, held, taken) {
            None => {
                naming.claimed.insert(wanted.clone(), claimant.arn.clone());
                Some(wanted)
            }
            Some(holder) => {
                let given = DatabaseName::parse(claimant.fallback()).ok();
                naming.conflicts.push(NameConflict {
                    name: wanted.to_string(),
                    arn: claimant.arn.clone(),
                    holder,
                    given: given.as_ref().map(ToString::to_string).unwrap_or_default(),
                });
                given
            }
        };
        if let Some(name) = name {
            naming.given.insert(claimant.arn.clone(), Given { name, reader: None });
        }
    }
    for claimant in order.iter().filter(|claimant| claimant.reader) {
        let reader = naming.reader_name(claimant, held, taken);
        if let Some(given) = naming.given.get_mut(&claimant.arn) {
            given.reader = reader;
        }
    }
    naming.conflicts.sort();
    naming
}

impl Naming {
    /// Who else has the name, if anybody.
    fn holder(
        &self,
        name: &DatabaseName,
        claimant: &Claimant,
        held: &BTreeMap<String, String>,
        taken: &BTreeSet<String>,
    ) -> Option<String> {
        let holder = self.claimed.get(name).or_else(|| held.get(name.as_str()));
        match holder {
            Some(arn) if *arn == claimant.arn => None,
            Some(arn) => Some(arn.clone()),
            None if taken.contains(name.as_str()) => Some("a static database".to_owned()),
            None if says_where(name.as_str()) => Some("reserved for the resource that it names".to_owned()),
            None if is_alias(name.as_str()) => Some("reserved for the database of that alias".to_owned()),
            None => None,
        }
    }

    /// `<name>-reader`, where `<name>` is what the resource itself got.
    fn reader_name(
        &mut self,
        claimant: &Claimant,
        held: &BTreeMap<String, String>,
        taken: &BTreeSet<String>,
    ) -> Option<DatabaseName> {
        let own = self.given.get(&claimant.arn)?.name.clone();
        let fallback = claimant.fallback();
        let wanted = DatabaseName::parse(format!("{own}{READER}")).ok()?;
        if own.as_str() == fallback {
            return Some(wanted);
        }
        let Some(holder) = self.holder(&wanted, claimant, held, taken) else {
            self.claimed.insert(wanted.clone(), claimant.arn.clone());
            return Some(wanted);
        };
        let given = DatabaseName::parse(format!("{fallback}{READER}")).ok()?;
        self.conflicts.push(NameConflict {
            name: wanted.to_string(),
            arn: claimant.arn.clone(),
            holder,
            given: given.to_string(),
        });
        Some(given)
    }
}

/// Whether a name has the form of an alias, `d-` and eight hex digits: a name comes before an alias, so whoever
/// could ask for one would get the connections of another database.
#[must_use]
pub fn is_alias(name: &str) -> bool {
    name.strip_prefix("d-").is_some_and(|rest| {
        rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// Whether a name has the form of a fallback, `<id>-<type>-<region>-<account>` with or without the reader's
/// ending: nobody can ask for one, so that fallbacks are always free.
fn says_where(name: &str) -> bool {
    let name = name.strip_suffix(READER).unwrap_or(name);
    let Some((rest, account)) = name.rsplit_once('-') else { return false };
    account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && ["-elasticache-", "-memorydb-"].iter().any(|kind| rest.contains(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DatabaseName {
        DatabaseName::parse(text).unwrap()
    }

    fn group(id: &str, region: &str, account: &str) -> Claimant {
        Claimant {
            arn: format!("arn:aws:elasticache:{region}:{account}:replicationgroup:{id}"),
            id: name(id),
            kind: DatabaseKind::Elasticache,
            region: region.into(),
            account: account.into(),
            asked: None,
            reader: false,
            matcher: 0,
        }
    }

    const HOME: &str = "123456789012";
    const ABROAD: &str = "210987654321";

    fn names(naming: &Naming, claimant: &Claimant) -> (String, Option<String>) {
        let given = &naming.given[&claimant.arn];
        (given.name.to_string(), given.reader.as_ref().map(ToString::to_string))
    }

    #[test]
    fn the_home_account_comes_first_and_an_impostor_gets_nothing() {
        let abroad = group("orders", "eu-west-1", ABROAD);
        let impostor = Claimant { asked: Some(name("orders")), ..group("impostor", "eu-west-1", ABROAD) };
        let home = Claimant { reader: true, ..group("orders", "us-east-1", HOME) };
        let naming = assign(
            &[abroad.clone(), impostor.clone(), home.clone()],
            &BTreeMap::new(),
            &BTreeSet::new(),
            HOME,
        );
        assert_eq!(names(&naming, &home), ("orders".into(), Some("orders-reader".into())));
        assert_eq!(names(&naming, &abroad).0, "orders-elasticache-eu-west-1-210987654321");
        assert_eq!(names(&naming, &impostor).0, "impostor-elasticache-eu-west-1-210987654321");
        assert_eq!(naming.conflicts.len(), 2);
        assert_eq!(naming.claimed.len(), 2);
    }

    #[test]
    fn a_holder_keeps_its_name_against_rank() {
        let abroad = group("orders", "eu-west-1", ABROAD);
        let home = group("orders", "us-east-1", HOME);
        let held = BTreeMap::from([("orders".to_owned(), abroad.arn.clone())]);
        let naming = assign(&[home.clone(), abroad.clone()], &held, &BTreeSet::new(), HOME);
        assert_eq!(names(&naming, &abroad).0, "orders");
        assert_eq!(names(&naming, &home).0, "orders-elasticache-us-east-1-123456789012");
    }

    #[test]
    fn nobody_can_ask_for_a_fallback() {
        let squatter = Claimant {
            asked: Some(name("orders-elasticache-eu-west-1-210987654321")),
            ..group("squatter", "us-east-1", HOME)
        };
        let home = group("orders", "us-east-1", HOME);
        let abroad = group("orders", "eu-west-1", ABROAD);
        let naming =
            assign(&[squatter.clone(), home, abroad.clone()], &BTreeMap::new(), &BTreeSet::new(), HOME);
        assert_eq!(names(&naming, &abroad).0, "orders-elasticache-eu-west-1-210987654321");
        assert_eq!(names(&naming, &squatter).0, "squatter-elasticache-us-east-1-123456789012");
    }

    #[test]
    fn nobody_can_ask_for_another_database_s_alias() {
        let squatter = Claimant { asked: Some(name("d-0123abcd")), ..group("squatter", "us-east-1", HOME) };
        let called = group("d-89abcdef", "us-east-1", HOME);
        let like_one = group("d-89abcdeg", "us-east-1", HOME);
        let all = [squatter.clone(), called.clone(), like_one.clone()];
        let naming = assign(&all, &BTreeMap::new(), &BTreeSet::new(), HOME);
        assert_eq!(names(&naming, &squatter).0, "squatter-elasticache-us-east-1-123456789012");
        assert_eq!(names(&naming, &called).0, "d-89abcdef-elasticache-us-east-1-123456789012");
        assert_eq!(names(&naming, &like_one).0, "d-89abcdeg");
        assert_eq!(naming.conflicts.len(), 2);
    }

    #[test]
    fn a_reader_follows_its_resource_and_yields_to_a_resource_of_its_name() {
        let asked =
            Claimant { asked: Some(name("shop")), reader: true, ..group("orders", "us-east-1", HOME) };
        let naming = assign(std::slice::from_ref(&asked), &BTreeMap::new(), &BTreeSet::new(), HOME);
        assert_eq!(names(&naming, &asked), ("shop".into(), Some("shop-reader".into())));
        let orders = Claimant { reader: true, ..group("orders", "us-east-1", HOME) };
        let named = group("orders-reader", "us-east-1", HOME);
        let naming = assign(&[orders.clone(), named.clone()], &BTreeMap::new(), &BTreeSet::new(), HOME);
        assert_eq!(names(&naming, &named).0, "orders-reader");
        assert_eq!(
            names(&naming, &orders),
            ("orders".into(), Some("orders-elasticache-us-east-1-123456789012-reader".into()))
        );
    }

    #[test]
    fn a_static_database_keeps_its_name() {
        let orders = group("orders", "us-east-1", HOME);
        let naming = assign(
            std::slice::from_ref(&orders),
            &BTreeMap::new(),
            &BTreeSet::from(["orders".to_owned()]),
            HOME,
        );
        assert_eq!(names(&naming, &orders).0, "orders-elasticache-us-east-1-123456789012");
        let held = BTreeMap::from([("orders".to_owned(), orders.arn.clone())]);
        let naming =
            assign(std::slice::from_ref(&orders), &held, &BTreeSet::from(["orders".to_owned()]), HOME);
        assert_eq!(names(&naming, &orders).0, "orders");
    }

    #[test]
    fn tags_ask() {
        let tags = |pairs: &[(&str, &str)]| -> Tags {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        assert_eq!(asked_name(&tags(&[])), Ok(None));
        let both = tags(&[("TeleportDatabaseName", "b"), ("keystile.dev/name", "a")]);
        assert_eq!(asked_name(&both), Ok(Some(name("a"))));
        assert_eq!(asked_name(&tags(&[("teleport.dev/database_name", "c")])), Ok(Some(name("c"))));
        assert!(asked_name(&tags(&[("keystile.dev/name", "Not Legal")])).is_err());
        assert!(asked_name(&tags(&[("keystile.dev/name", &"a".repeat(300))])).is_err());
    }
}
