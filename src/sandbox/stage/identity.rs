//! Ids of a user namespace; giving up: bounding set, groups, ids, capabilities, each read back.

use std::fs;

use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

use crate::sandbox::Control;
use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::plan::{Plan, User};
use crate::sys::capability::{Capabilities, drop_all, empty_bounding_set, lock_secure_bits};

/// Maps one user and one group in the user namespace of this process, as `user_namespaces(7)` lets everybody: their own.
/// `setgroups` has to be given up for it. A user of the host takes no map.
pub(super) fn map(user: User) -> Result<(), Fault> {
    let User::Mapped { uid, gid, outside_uid, outside_gid } = user else { return Ok(()) };
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).at_with(Step::MapIds, || file.to_owned())
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{uid} {outside_uid} 1"))?;
    write("gid_map", format!("{gid} {outside_gid} 1"))
}

/// Becomes the plan's user without any privilege.
pub(super) fn become_user(plan: &Plan) -> Result<(), Fault> {
    let drops = plan.applies(Control::Capabilities);
    if drops {
        // While CAP_SETPCAP is still there.
        lock_secure_bits().at(Step::BoundingSet)?;
        empty_bounding_set().at(Step::BoundingSet)?;
    }
    if let (User::Host { uid, gid }, true) = (plan.user, plan.applies(Control::Identity)) {
        become_host_user(plan, Uid::from_raw(uid), Gid::from_raw(gid))?;
    }
    if drops {
        drop_all().at(Step::Capabilities)?;
        let left = Capabilities::of_this_thread().at(Step::Verify)?;
        if !left.are_none() {
            return Err(Fault::said(Step::Verify, format!("capabilities are left: {left:x?}")));
        }
    }
    Ok(())
}

fn become_host_user(plan: &Plan, uid: Uid, gid: Gid) -> Result<(), Fault> {
    if uid.is_root() || gid.as_raw() == 0 {
        return Err(Fault::said(Step::Uid, "a sandbox does not run as root"));
    }
    if plan.applies(Control::Groups) {
        setgroups(&[]).at(Step::Groups)?;
        if !getgroups().at(Step::Verify)?.is_empty() {
            return Err(Fault::said(Step::Verify, "groups are left"));
        }
    }
    setresgid(gid, gid, gid).at(Step::Gid)?;
    setresuid(uid, uid, uid).at(Step::Uid)?;
    let (groups, users) = (getresgid().at(Step::Verify)?, getresuid().at(Step::Verify)?);
    let is_done = [groups.real, groups.effective, groups.saved] == [gid; 3]
        && [users.real, users.effective, users.saved] == [uid; 3];
    if is_done { Ok(()) } else { Err(Fault::said(Step::Verify, "the user or group id did not change")) }
}
