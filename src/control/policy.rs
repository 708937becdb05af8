//! stub
pub(super) async fn personas() {}
pub(super) async fn reload() {}
