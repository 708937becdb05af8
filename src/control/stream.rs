//! stub
pub(super) async fn events() {}
