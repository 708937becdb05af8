//! What the handbook asks for beyond the gate: what may run, with whose consent, signed by whom.
//!
//! | module | owns |
//! |---|---|
//! | `consent` | what people were told and agreed to, and whether a launch may read data |
//! | `recipes` | automations as signed folders: read, installed, previewed, retired |
//! | `bundles` | what runtimes are made of: catalogues, imports, revisions, audits |
//! | `signed` | whose signatures are believed, over what, and the shelf that holds what was verified |
//! | `journal` | lines that are on the disk before they count |

pub mod authority;
pub mod bundles;
pub mod consent;
pub mod journal;
pub mod recipes;
pub mod signed;
