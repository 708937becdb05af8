//! The GPUs of this very host, where there are any.

use arw::gpu::Gpus;

#[test]
fn the_gpus_of_this_host_can_be_read_or_are_clearly_unavailable() {
    let gpus = Gpus::open(None);
    match gpus.availability() {
        Err(unavailable) => println!("SKIP real GPU: {}: {unavailable}", unavailable.reason.code()),
        Ok(versions) => {
            println!("driver {} cuda {:?}", versions.driver, versions.cuda.map(|cuda| cuda.to_string()));
            let inventory = gpus.inventory().expect("available");
            assert!(!inventory.adapters.is_empty() || !inventory.faults.is_empty());
            for adapter in &inventory.adapters {
                println!("{adapter:?}");
                let reading = gpus.read(&adapter.uuid).expect("available");
                println!("{reading:?}");
                assert!(reading.memory.is_some_and(|memory| memory.total == adapter.memory.total));
            }
        }
    }
}
