pub(super) fn normal(text: &str) -> Option<String> {
    use crate::policy::{HostPattern, Purpose};
    match text {
        "persona:manage" | "runtime:manage" | "egress:proxy" | "telemetry:persona:*" => return Some(text.to_owned()),
        _ => {}
    }
    if let Some(id) = text.strip_prefix("telemetry:persona:") {
        return crate::domain::PersonaId::parse(id).ok().map(|_| text.to_owned());
    }
    let rest = text.strip_prefix("egress:host:")?;
    let (host, port) = rest.split_once(':').map_or((rest, None), |(h, p)| (h, Some(p)));
    let pattern = HostPattern::parse(host, Purpose::Allow).ok()?;
    Some(match port {
        Some(p) => format!("egress:host:{pattern}:{}", p.parse::<u16>().ok()?),
        None => format!("egress:host:{pattern}"),
    })
}
