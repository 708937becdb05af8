//! The registry of automations as it is written: shape-checked and located, not yet understood.

use std::path::Path;

use super::located::{Document, Found, Place, Section};
use super::runtimes::BudgetForm;

/// `automations.toml`.
#[derive(Debug)]
pub struct AutomationsFile {
    /// Reports what is found wrong later, beside what was found wrong in the shape.
    pub document: Document,
    /// `[[automations]]`, in file order.
    pub automations: Vec<AutomationForm>,
}

/// One `[[automations]]`.
#[derive(Debug, Clone)]
pub struct AutomationForm {
    /// Where it starts.
    pub place: Place,
    /// `id`.
    pub id: Option<Found<String>>,
    /// `runtime`.
    pub runtime: Option<Found<String>>,
    /// `persona`.
    pub persona: Option<Found<String>>,
    /// `schedule`.
    pub schedule: Option<Found<String>>,
    /// `timezone`.
    pub timezone: Option<Found<String>>,
    /// `[automations.budget]`.
    pub budget: BudgetForm,
}

impl AutomationsFile {
    /// Reads `text` as the contents of `path`.
    ///
    /// # Errors
    /// The document with its faults when the text is not TOML. Faults of the shape do not stop the reading: they wait in
    /// `document` for those that the meaning adds.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Document> {
        let document = Document::new(path, text);
        let Some(mut root) = document.root(text) else { return Err(document) };
        let automations = root.sections("automations").into_iter().map(AutomationForm::take).collect();
        root.end();
        Ok(Self { document, automations })
    }
}

impl AutomationForm {
    fn take(mut section: Section<'_, '_>) -> Self {
        let form = Self {
            place: section.place().clone(),
            id: section.require("id"),
            runtime: section.require("runtime"),
            persona: section.take("persona"),
            schedule: section.take("schedule"),
            timezone: section.take("timezone"),
            budget: section.section("budget").map(BudgetForm::take).unwrap_or_default(),
        };
        section.end();
        form
    }
}
