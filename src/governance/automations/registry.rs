//! What the automations are: the file, laid over the manifest of the runtimes. Pure.

use std::collections::BTreeMap;

use crate::config::located::{Document, Found, nearest};
use crate::config::{AutomationForm, AutomationsFile, Faults};
use crate::domain::{AutomationId, PersonaId, RuntimeId};
use crate::supervisor::{Budget, MAX_RUNTIMES, Manifest, Schedule, narrow_budget, schedule_of};

/// One automation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Automation {
    /// Its name.
    pub id: AutomationId,
    /// The runtime that does its work.
    pub runtime: RuntimeId,
    /// Who its traffic leaves as.
    pub persona: PersonaId,
    /// When the clock starts it.
    pub schedule: Option<Schedule>,
    /// What it may use up.
    pub budget: Budget,
    /// The consent scopes that its runtime reads data under.
    pub consent: Vec<String>,
    /// Whether a file names it; otherwise it is there because its runtime is.
    pub declared: bool,
}

/// All automations of this host: each runtime belongs to exactly one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    automations: BTreeMap<AutomationId, Automation>,
    of_runtime: BTreeMap<RuntimeId, AutomationId>,
}

impl Registry {
    /// Those of a manifest as [`read`] left it.
    pub fn of(manifest: &Manifest, declared: impl Fn(&AutomationId) -> bool) -> Self {
        let automations: BTreeMap<AutomationId, Automation> = manifest
            .runtimes()
            .map(|spec| {
                let automation = Automation {
                    id: spec.automation.clone(),
                    runtime: spec.id.clone(),
                    persona: spec.persona.clone(),
                    schedule: spec.schedule.clone(),
                    budget: spec.budget,
                    consent: spec.consent.clone(),
                    declared: declared(&spec.automation),
                };
                (automation.id.clone(), automation)
            })
            .collect();
        let of_runtime = automations.values().map(|one| (one.runtime.clone(), one.id.clone())).collect();
        Self { automations, of_runtime }
    }

    /// In the order of their ids.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &Automation> {
        self.automations.values()
    }

    /// The automation of that name, or of the runtime of that name: alerts name either.
    pub fn find(&self, name: &str) -> Option<&Automation> {
        let by_name = AutomationId::parse(name).ok().and_then(|id| self.automations.get(&id));
        by_name.or_else(|| self.of_runtime(&RuntimeId::parse(name).ok()?))
    }

    /// The automation that a runtime works for.
    pub fn of_runtime(&self, id: &RuntimeId) -> Option<&Automation> {
        self.automations.get(self.of_runtime.get(id)?)
    }
}

/// Reads what `file` means, and lays it over `manifest`: its schedules and budgets become those of the runtimes. A runtime
/// that no automation names is one of its own name.
///
/// # Errors
/// Every fault of the file, those of its shape included: nothing of a faulty one is applied.
pub fn read(file: AutomationsFile, manifest: Manifest) -> Result<(Registry, Manifest), Faults> {
    let AutomationsFile { document, automations } = file;
    if let Some(form) = automations.get(MAX_RUNTIMES) {
        document.fault(&form.place, format!("more than {MAX_RUNTIMES} automations"));
    }
    let mut named: BTreeMap<RuntimeId, (Automation, usize)> = BTreeMap::new();
    let mut ids: BTreeMap<AutomationId, usize> = BTreeMap::new();
    for form in &automations {
        let Some(automation) = one(&document, form, &manifest) else { continue };
        let line = form.place.line;
        if let Some(first) = ids.insert(automation.id.clone(), line) {
            document.fault(&form.place, format!("the automation `{}` is also in line {first}", automation.id));
        }
        if let Some((other, first)) = named.get(&automation.runtime) {
            let message =
                format!("the runtime `{}` works for `{}` already (line {first})", automation.runtime, other.id);
            document.fault_with_hint(
                &form.place,
                message,
                "what is used could not be told apart: declare another runtime",
            );
            continue;
        }
        named.insert(automation.runtime.clone(), (automation, line));
    }
    // Another's own name would lead to two of them.
    for (runtime, (automation, line)) in &named {
        let own = RuntimeId::parse(automation.id.as_str()).ok().filter(|id| id != runtime);
        if own.is_some_and(|own| manifest.runtime(&own).is_some()) {
            let place = crate::config::located::Place { key: "automations".to_owned(), line: *line };
            let message = format!("`{}` is the name of another runtime", automation.id);
            document.fault_with_hint(&place, message, "a runtime's name always means the automation that it works for");
        }
    }
    let faults = document.into_faults();
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    let manifest = manifest.with(|spec| {
        if let Some((automation, _)) = named.get(&spec.id) {
            spec.automation = automation.id.clone();
            spec.schedule.clone_from(&automation.schedule);
            spec.budget = automation.budget;
        }
    });
    let registry = Registry::of(&manifest, |id| ids.contains_key(id));
    Ok((registry, manifest))
}

fn one(document: &Document, form: &AutomationForm, manifest: &Manifest) -> Option<Automation> {
    let id = form.id.as_ref().and_then(|found| parsed(document, found, AutomationId::parse));
    let persona = form.persona.as_ref().and_then(|found| Some((parsed(document, found, PersonaId::parse)?, found)));
    let found = form.runtime.as_ref()?;
    let runtime = parsed(document, found, RuntimeId::parse)?;
    let Some(spec) = manifest.runtime(&runtime) else {
        let names: Vec<&str> = manifest.runtimes().map(|spec| spec.id.as_str()).collect();
        let hint = nearest(runtime.as_str(), &names).map_or_else(
            || "the manifest of the runtimes declares none of that id".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        document.fault_with_hint(&found.place, format!("unknown runtime `{runtime}`"), hint);
        return None;
    };
    if let Some((persona, found)) = persona.filter(|(persona, _)| *persona != spec.persona) {
        let message = format!("the runtime `{runtime}` leaves as `{}`, not as `{persona}`", spec.persona);
        document.fault(&found.place, message);
    }
    let schedule = schedule_of(document, form.schedule.as_ref(), form.timezone.as_ref(), spec.restart);
    if let (Some(found), Some(_)) = (&form.schedule, &spec.schedule) {
        let message = format!("the runtime `{runtime}` has a schedule of its own");
        document.fault_with_hint(&found.place, message, "keep one of the two");
    }
    Some(Automation {
        id: id?,
        runtime,
        persona: spec.persona.clone(),
        schedule: schedule.or_else(|| spec.schedule.clone()),
        budget: narrow_budget(document, &form.budget, spec.budget),
        consent: spec.consent.clone(),
        declared: true,
    })
}

fn parsed<T, E: std::fmt::Display>(
    document: &Document,
    found: &Found<String>,
    parse: fn(&str) -> Result<T, E>,
) -> Option<T> {
    parse(&found.value).map_err(|fault| document.fault(&found.place, fault.to_string())).ok()
}
