//! Questions with their expected answers, from a file: the test of a policy.
//!
//! Both kinds of question stand in one file: who may do what (`principal`, `action`, `resource`, `leases`), and what may
//! leave (`persona`, `url`, `method`).

use std::path::Path;

use super::policy::Policy;
use super::question::{Question, Why};
use super::words::{Action, Capability, Principal, Resource, shown};
use crate::config::located::{Document, Found, Place, Section, nearest, read_file};
use crate::config::{Fault, Faults};
use crate::domain::{ClientAddr, DenialCode, PersonaId, Timestamp, codes};
use crate::policy::{self, Answer, Snapshot};

/// Largest file of cases.
const MAX_FILE: u64 = 1 << 20;
/// Most cases of a file.
const MAX_CASES: usize = 10_000;
/// Longest name of a case, in bytes.
const MAX_NAME: usize = 256;

codes! {
    /// An answer in one word.
    Expected {
        /// It may be done, or leave.
        Allow => "allow",
        /// It may not.
        Deny => "deny",
        /// It leaves because the persona is in report mode.
        WouldDeny => "would_deny",
    }
}

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// Where it stands.
    pub line: usize,
    asked: Asked,
    expected: (Expected, Option<String>),
}

#[derive(Debug, Clone)]
enum Asked {
    Authority(Question),
    Egress { persona: PersonaId, question: Box<policy::Question> },
}

/// A case that was answered otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaseFault {
    /// Another answer, or the same for another reason.
    #[error("expected {expected}, got {got}")]
    Other {
        /// As the file has it.
        expected: String,
        /// As the policy has it.
        got: String,
    },
    /// No such persona.
    #[error("there is no persona `{0}`")]
    UnknownPersona(PersonaId),
}

impl Case {
    /// Asks the policies and compares.
    ///
    /// # Errors
    /// What was answered in the place of what the file expects.
    pub fn hold(&self, authority: &Policy, personas: &Snapshot, now: Timestamp) -> Result<(), CaseFault> {
        let (answer, code) = match &self.asked {
            Asked::Authority(question) => {
                let ruling = authority.decide(question);
                let answer = if ruling.allowed { Expected::Allow } else { Expected::Deny };
                (answer, Some(ruling.code.code()))
            }
            Asked::Egress { persona, question } => {
                if personas.persona(persona).is_none() {
                    return Err(CaseFault::UnknownPersona(persona.clone()));
                }
                // Whoever asks: a rule does not look at the client.
                let client = ClientAddr::Unix { uid: 0, pid: 0 };
                let (_, verdict) = personas.verdict(question, persona.clone(), client, now);
                let answer = match verdict.answer {
                    Answer::Allow => Expected::Allow,
                    Answer::WouldDeny => Expected::WouldDeny,
                    Answer::Deny => Expected::Deny,
                };
                (answer, verdict.denial.map(|denial| denial.code.code()))
            }
        };
        let (expected, why) = &self.expected;
        if *expected == answer && why.as_deref().is_none_or(|why| Some(why) == code) {
            return Ok(());
        }
        let told = |answer: Expected, code: Option<&str>| match code {
            Some(code) => format!("`{answer}` ({code})"),
            None => format!("`{answer}`"),
        };
        Err(CaseFault::Other { expected: told(*expected, why.as_deref()), got: told(answer, code) })
    }
}

/// The cases of `path`, JSON or TOML by its ending.
///
/// # Errors
/// Every fault of the file.
pub fn read_cases(path: &Path) -> Result<Vec<Case>, Faults> {
    let text = read_file(path, MAX_FILE).map_err(|fault| Faults(vec![fault]))?;
    let document = match path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => Document::json(path, &text),
        Some("toml") => Document::new(path, &text),
        Some(_) | None => {
            return Err(Faults(vec![Fault::new(path, None, "", "cases are in a file `….json` or `….toml`")]));
        }
    };
    let mut cases = Vec::new();
    if let Some(mut root) = document.root(&text) {
        let listed = root.has("cases");
        let sections = root.sections("cases");
        if !listed || sections.is_empty() {
            root.fault("cases", "there is no case");
        }
        if let Some(section) = sections.get(MAX_CASES) {
            document.fault(section.place(), format!("more than {MAX_CASES} cases"));
        }
        cases.extend(sections.into_iter().take(MAX_CASES).filter_map(|section| read(&document, section)));
        root.end();
    }
    let faults = document.into_faults();
    if faults.is_empty() { Ok(cases) } else { Err(Faults(faults)) }
}

fn read(document: &Document, mut section: Section<'_, '_>) -> Option<Case> {
    let place = section.place().clone();
    let name = section.require("name").and_then(|found| document.plain_text(&found, MAX_NAME));
    let expect = section.require::<String>("expect").and_then(|found| word(document, &found));
    let egress = ["persona", "url", "method"].into_iter().any(|key| section.has(key));
    let (asked, known): (_, Vec<&str>) = match egress {
        true => (egress_question(document, &mut section), DenialCode::ALL.iter().map(|code| code.code()).collect()),
        false => (authority_question(document, &mut section), Why::ALL.iter().map(|why| why.code()).collect()),
    };
    let code = match section.take::<String>("code") {
        Some(found) if known.contains(&found.value.as_str()) => Some(Some(found.value)),
        Some(found) => {
            let hint = nearest(&found.value, &known).map(|near| format!("did you mean `{near}`?"));
            let hint = hint.unwrap_or_else(|| format!("one of {}", known.join(", ")));
            document.fault_with_hint(&found.place, format!("`{}` is not a code", shown(&found.value)), hint);
            None
        }
        None => Some(None),
    };
    section.end();
    Some(Case { name: name?, line: place.line, asked: asked?, expected: (expect?, code?) })
}

fn word(document: &Document, found: &Found<String>) -> Option<Expected> {
    let word = Expected::from_code(&found.value);
    if word.is_none() {
        document
            .fault(&found.place, format!("`{}` is neither `allow` nor `deny` nor `would_deny`", shown(&found.value)));
    }
    word
}

fn authority_question(document: &Document, section: &mut Section<'_, '_>) -> Option<Asked> {
    let report = |place: &Place, fault: super::words::WordFault| {
        document.fault_with_hint(place, fault.to_string(), fault.hint());
    };
    let principal = section
        .require::<String>("principal")
        .and_then(|found| Principal::parse(&found.value).map_err(|fault| report(&found.place, fault)).ok());
    let action = section.require::<String>("action").and_then(|found| {
        let action = Action::from_code(&found.value);
        action.or_else(|| {
            report(&found.place, super::words::WordFault::Action(shown(&found.value)));
            None
        })
    });
    let resource = section
        .require::<String>("resource")
        .and_then(|found| Resource::parse(&found.value).map_err(|fault| report(&found.place, fault)).ok());
    let mut leases = Some(Vec::new());
    for found in section.list::<String>("leases").unwrap_or_default() {
        match Capability::parse(&found.value) {
            Ok(lease) => leases.iter_mut().for_each(|leases| leases.push(lease.clone())),
            Err(fault) => {
                report(&found.place, fault);
                leases = None;
            }
        }
    }
    Some(Asked::Authority(Question { principal: principal?, action: action?, resource: resource?, leases: leases? }))
}

fn egress_question(document: &Document, section: &mut Section<'_, '_>) -> Option<Asked> {
    let persona = section.require::<String>("persona").and_then(|found| {
        PersonaId::parse(&found.value).map_err(|fault| document.fault(&found.place, fault.to_string())).ok()
    });
    let url = section.require::<String>("url").and_then(|found| {
        policy::Question::of_url(&found.value).map_err(|fault| document.fault(&found.place, fault)).ok()
    });
    let question = match section.take::<String>("method") {
        None => url,
        Some(found) => {
            url.and_then(|url| url.by_method(&found.value).map_err(|fault| document.fault(&found.place, fault)).ok())
        }
    };
    Some(Asked::Egress { persona: persona?, question: Box::new(question?) })
}
