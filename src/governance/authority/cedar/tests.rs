use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::super::table::Denial;
use super::super::words::Capability;
use super::*;

const STOP: &str = "@id(\"stop\") permit (principal == Token::\"admin\", action == Action::\"automation:shutdown\", \
                    resource == Daemon::\"daemon\");\n";

fn faults(statement: &str) -> Vec<String> {
    match read(Path::new("p.cedar"), &format!("{STOP}{statement}")) {
        Ok(bundle) => panic!("it was read: {statement}: {bundle:?}"),
        Err(faults) => faults.0.iter().map(ToString::to_string).collect(),
    }
}

fn bundle(statements: &str) -> Bundle {
    read(Path::new("p.cedar"), &format!("{STOP}{statements}")).unwrap_or_else(|faults| panic!("{faults}"))
}

fn ask(bundle: &Bundle, principal: &str, action: Action, resource: &str, leases: &[&str]) -> Ruling {
    bundle.decide(&Question {
        principal: Principal::parse(principal).expect("a principal"),
        action,
        resource: Resource::parse(resource).expect("a resource"),
        leases: leases.iter().map(|lease| Capability::parse(lease).expect("a capability")).collect(),
    })
}

#[test]
fn permits_that_do_not_say_whom_what_or_on_what_are_refused_with_their_line() {
    for (statement, fault) in [
        ("permit (principal, action, resource);", "a wildcard grant: the permit does not name whom"),
        ("permit (principal, action == Action::\"state:read\", resource == Daemon::\"daemon\");", "does not name whom"),
        (
            "permit (principal is Uid, action == Action::\"state:read\", resource == Daemon::\"daemon\");",
            "does not name whom",
        ),
        ("permit (principal == Uid::\"5\", action, resource == Daemon::\"daemon\");", "does not name what"),
        ("permit (principal == Uid::\"5\", action == Action::\"state:read\", resource);", "does not name on what"),
        (
            "permit (principal == Uid::\"5\", action in [], resource == Daemon::\"daemon\");",
            "the list of actions is empty",
        ),
        (
            "permit (principal == Uid::\"5\", action == Action::\"lease:grant\", resource is Capability);",
            "does not name on what",
        ),
        (
            "permit (principal == Uid::\"5\", action == Action::\"lease:grant\", resource == Capability::\"egress:host:*\");",
            "is not a resource",
        ),
        (
            "permit (principal == Uid::\"5\", action == Action::\"lease:grant\", resource == Capability::\"egress:host\");",
            "is a family",
        ),
        (
            "permit (principal == Uid::\"5\", action == Action::\"lease:grant\", resource in Capability::\"egress:proxy\");",
            "has no members",
        ),
        (
            "permit (principal == Uid::\"*\", action == Action::\"state:read\", resource == Daemon::\"daemon\");",
            "is nobody",
        ),
        (
            "permit (principal == Uid::\"05\", action == Action::\"state:read\", resource == Daemon::\"daemon\");",
            "is nobody",
        ),
        (
            "permit (principal == Uid::\"65534\", action == Action::\"state:read\", resource == Daemon::\"daemon\");",
            "stands for whoever has none",
        ),
        (
            "permit (principal == Token::\"other\", action == Action::\"state:read\", resource == Daemon::\"daemon\");",
            "is nobody",
        ),
        (
            "permit (principal == Group::\"ops\", action == Action::\"state:read\", resource == Daemon::\"daemon\");",
            "is nobody",
        ),
        (
            "permit (principal == Uid::\"5\", action == Action::\"state:raed\", resource == Daemon::\"daemon\");",
            "is not an action",
        ),
        (
            "permit (principal == Uid::\"5\", action == Verb::\"state:read\", resource == Daemon::\"daemon\");",
            "not Cedar",
        ),
        (
            "permit (principal == Uid::\"5\", action == Action::\"state:read\", resource is Runtime);",
            "is done to a `daemon`",
        ),
        (
            "permit (principal == Uid::\"5\", action == Action::\"automation:shutdown\", resource == Daemon::\"daemon\") when { context.leases.contains(\"runtime:manage\") };",
            "must not wait for a condition",
        ),
        (
            "permit (principal == Uid::\"5\", action == Action::\"state:read\", resource == Daemon::\"daemon\") when { context.lease };",
            "",
        ),
        (
            "permit (principal == Uid::\"5\", action == Action::\"state:read\", resource == Daemon::\"daemon\") when { resource in Uid::\"5\" };",
            "",
        ),
        (
            "permit (principal == ?principal, action == Action::\"state:read\", resource == Daemon::\"daemon\");",
            "not Cedar",
        ),
        ("forbid (principal, action, resource);", "the kill switch is never denied"),
        (
            "forbid (principal, action in [Action::\"state:read\", Action::\"automation:shutdown\"], resource);",
            "the kill switch is never denied",
        ),
        (
            "permit (principal == Uid::\"5\", action == Action::\"state:read\", resource == Daemon::\"daemon\")",
            "without its `;`",
        ),
        ("allow everything;", "not Cedar"),
    ] {
        let found = faults(&format!("@id(\"a\")\n{statement}"));
        assert!(
            found.iter().any(|found| found.starts_with("p.cedar:2: ") && found.contains(fault)),
            "{statement}: {found:?}"
        );
    }
    let nameless =
        faults("permit (principal == Uid::\"5\", action == Action::\"state:read\", resource == Daemon::\"daemon\");");
    assert!(nameless[0].contains("the statement has no id"), "{nameless:?}");
    let twice = faults(STOP);
    assert!(twice[0].contains("the id of a statement before"), "{twice:?}");
    let nobody = read(Path::new("p.cedar"), "").expect_err("nobody").to_string();
    assert!(nobody.contains("nobody may use the kill switch"), "{nobody}");
}

#[test]
fn hostile_bundles_are_faults_and_never_a_crash() {
    let head =
        "permit (principal == Uid::\"5\", action == Action::\"state:read\", resource == Daemon::\"daemon\") when";
    for body in [
        format!("{{ {}true{} }}", "(".repeat(31), ")".repeat(31)),
        format!("{{ {}true }}", "true && ".repeat(450)),
        format!("{{ {}true }}", "if true then true else ".repeat(150)),
        format!("{{ {}true }}", "!".repeat(3_500)),
        format!("{{ {} > 0 }}", "9".repeat(3_000)),
        format!("{{ context{} }}", ".leases".repeat(500)),
        "{ context.leases.contains(\"d\u{435}mo\") }".to_owned(),
        "{ context[\"leases\"] == context.nothing }".to_owned(),
    ] {
        // Read or refused; what matters is that an answer comes, also from a small stack.
        let text = format!("{STOP}@id(\"a\") {head} {body};");
        let small = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
            if let Ok(bundle) = read(Path::new("p.cedar"), &text) {
                let _ = ask(&bundle, "uid:5", Action::StateRead, "daemon", &[]);
            }
        });
        small.expect("a thread").join().expect("no panic");
    }
}

#[test]
fn a_condition_on_leases_holds_while_they_do() {
    let bundle = bundle(
        "@id(\"train\") permit (principal == Uid::\"5\", action == Action::\"runtime:manage\", resource is Runtime)\n\
         when { context.leases.contains(\"runtime:manage\") };",
    );
    let with = |leases: &[&str]| ask(&bundle, "uid:5", Action::RuntimeManage, "runtime:trainer", leases);
    assert_eq!((with(&[]).allowed, with(&[]).code), (false, Why::LeaseNeeded));
    assert!(!with(&["persona:manage"]).allowed);
    assert!(with(&["persona:manage", "runtime:manage"]).allowed);
    assert_eq!(
        ask(&bundle, "uid:6", Action::RuntimeManage, "runtime:trainer", &["runtime:manage"]).code,
        Why::NotGranted
    );
}

#[test]
fn families_of_capabilities_and_denials() {
    let bundle = bundle(
        "@id(\"lend\") permit (principal == Token::\"admin\", action == Action::\"lease:grant\", resource in Capability::\"egress:host\");\n\
         @id(\"watch\") permit (principal == Token::\"admin\", action == Action::\"lease:grant\", resource in Capability::\"telemetry:persona:*\");\n\
         @id(\"bad-host\") forbid (principal, action == Action::\"lease:grant\", resource == Capability::\"egress:host:bad.example\");",
    );
    let lend = |what: &str| ask(&bundle, "token", Action::LeaseGrant, &format!("capability:{what}"), &[]);
    assert!(lend("egress:host:api.example.com:443").allowed);
    assert!(lend("telemetry:persona:*").allowed && lend("telemetry:persona:demo").allowed);
    assert_eq!(
        (lend("egress:host:bad.example").allowed, lend("egress:host:bad.example").rule.as_deref()),
        (false, Some("bad-host"))
    );
    assert!(!lend("persona:manage").allowed);
}

/// The same table in Cedar: one permit or forbid for each combination, since a head names one of each.
fn written(table: &Table) -> String {
    let principal = |principal: &Principal| match principal {
        Principal::Token => "Token::\"admin\"".to_owned(),
        Principal::Uid(uid) => format!("Uid::\"{uid}\""),
        Principal::Persona(id) => format!("Persona::\"{id}\""),
    };
    let target = |target: &Target| match target {
        Target::One(resource) => format!("resource == {}::\"{}\"", type_of(resource.kind()), resource.name()),
        Target::Every(kind) => format!("resource is {}", type_of(*kind)),
        Target::Family(family) => format!("resource in Capability::\"{family}\""),
    };
    let mut text = STOP.to_owned();
    let mut number = 0;
    let mut line = |effect: &str, who: String, action: &Action, on: String, when: String| {
        number += 1;
        text.push_str(&format!("@id(\"r{number}\") {effect} ({who}, action == Action::\"{action}\", {on}){when};\n"));
    };
    for grant in &table.grants {
        for who in &grant.principals {
            for action in &grant.actions {
                for on in grant.targets.iter().filter(|on| on.kind() == action.on()) {
                    let when =
                        grant.lease.as_ref().map(|lease| format!(" when {{ context.leases.contains(\"{lease}\") }}"));
                    line(
                        "permit",
                        format!("principal == {}", principal(who)),
                        action,
                        target(on),
                        when.unwrap_or_default(),
                    );
                }
            }
        }
    }
    for denial in &table.denials {
        let whom: Vec<String> = match &denial.principals {
            None => vec!["principal".to_owned()],
            Some(whom) => whom.iter().map(|who| format!("principal == {}", principal(who))).collect(),
        };
        for who in whom {
            for action in &denial.actions {
                let on: Vec<String> = match &denial.targets {
                    None => vec!["resource".to_owned()],
                    Some(targets) => targets.iter().filter(|on| on.kind() == action.on()).map(target).collect(),
                };
                for on in on {
                    line("forbid", who.clone(), action, on, String::new());
                }
            }
        }
    }
    text
}

fn principals() -> Vec<Principal> {
    ["token", "uid:0", "uid:1000", "persona:demo", "persona:other"]
        .map(|text| Principal::parse(text).expect(text))
        .to_vec()
}

fn resources() -> Vec<Resource> {
    [
        "daemon",
        "persona:demo",
        "persona:other",
        "runtime:trainer",
        "runtime:scribe",
        "automation:nightly",
        "capability:persona:manage",
        "capability:egress:proxy",
        "capability:egress:host:api.example.com",
        "capability:egress:host:*.example.org:443",
        "capability:telemetry:persona:*",
        "capability:telemetry:persona:demo",
    ]
    .map(|text| Resource::parse(text).expect(text))
    .to_vec()
}

fn leases() -> Vec<Capability> {
    ["persona:manage", "runtime:manage", "telemetry:persona:*"]
        .map(|text| Capability::parse(text).expect(text))
        .to_vec()
}

/// As `policy.json` would be read: what names a family means all of it.
fn targets() -> Vec<Target> {
    let one = resources().into_iter().filter(|resource| resource.name() != Family::Telemetry.code()).map(Target::One);
    let every = [Kind::Persona, Kind::Runtime, Kind::Automation].map(Target::Every);
    one.chain(every).chain(Family::ALL.iter().copied().map(Target::Family)).collect()
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let all: Vec<Action> = Action::ALL.iter().copied().filter(|action| *action != Action::AutomationShutdown).collect();
    subsequence(all, 1..8)
}

fn tables() -> impl Strategy<Value = Table> {
    let some = || (subsequence(principals(), 1..4), actions(), subsequence(targets(), 1..8));
    let grants = vec((some(), proptest::option::of(select(leases()))), 0..6);
    let denials = vec((some(), any::<bool>(), any::<bool>()), 0..3);
    (grants, denials).prop_map(|(grants, denials)| Table {
        grants: std::iter::once(Grant {
            id: "stop".to_owned(),
            principals: vec![Principal::Token],
            actions: vec![Action::AutomationShutdown],
            targets: vec![Target::One(Resource::Daemon)],
            lease: None,
        })
        .chain(grants.into_iter().enumerate().map(|(index, ((principals, actions, targets), lease))| Grant {
            id: format!("g{index}"),
            principals,
            actions,
            targets,
            lease,
        }))
        .collect(),
        denials: denials
            .into_iter()
            .enumerate()
            .map(|(index, ((principals, actions, targets), everybody, everything))| Denial {
                id: format!("d{index}"),
                principals: (!everybody).then_some(principals),
                actions,
                targets: (!everything).then_some(targets),
            })
            .collect(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn both_languages_give_the_same_answers(table in tables(), leased in subsequence(leases(), 0..3)) {
        let text = written(&table);
        let bundle = read(Path::new("p.cedar"), &text)
            .unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        for principal in principals() {
            for resource in resources() {
                for action in Action::ALL.iter().filter(|action| action.on() == resource.kind()) {
                    let question = Question {
                        principal: principal.clone(),
                        action: *action,
                        resource: resource.clone(),
                        leases: leased.clone(),
                    };
                    let (json, cedar) = (table.decide(&question), bundle.decide(&question));
                    prop_assert_eq!(
                        (json.allowed, json.code), (cedar.allowed, cedar.code),
                        "{:?}\n{}", question, text
                    );
                }
            }
        }
    }
}

#[test]
fn the_shipped_examples_are_sound_and_say_the_same() {
    use super::super::policy::Policy;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let read = |name: &str| {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).expect("shipped");
        Policy::parse(&path, &text).unwrap_or_else(|faults| panic!("{faults}"))
    };
    let (json, cedar) = (read("policy.json"), read("policy.cedar"));
    for principal in principals() {
        for resource in resources() {
            for action in Action::ALL {
                for leases in [Vec::new(), leases()] {
                    let (principal, resource) = (principal.clone(), resource.clone());
                    let question = Question { principal, action: *action, resource, leases };
                    let (json, cedar) = (json.decide(&question), cedar.decide(&question));
                    assert_eq!((json.allowed, json.code), (cedar.allowed, cedar.code), "{question:?}");
                }
            }
        }
    }
}
