//! Owners with dependents that the user leaves: orphans must stay, and in the foreground the owner goes last.

use coracle_client::random;
use kube::{
    Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    objects::{self, NAMESPACE},
    scenario::{api, create},
};

/// Config maps that own secrets.
#[derive(Default)]
pub(crate) struct Families {
    made: usize,
    /// Names of the owners that are there.
    owners: Vec<String>,
}

impl Families {
    /// An owner and some dependents, one of which may be held by a finalizer of the user's.
    pub(crate) async fn found(&mut self, user: &Client) {
        let name = format!("own-{}", self.made);
        self.made += 1;
        create(user, objects::config_map(&name)).await;
        let owner = api(user, "ConfigMap").get(&name).await.unwrap();
        let held = random::below(8);
        for number in 0..1 + random::below(6) {
            let secret = objects::secret(&format!("{name}-{number}"), &owner.metadata, number == held);
            create(user, secret).await;
        }
        self.owners.push(name);
    }

    /// The user deletes an owner.
    pub(crate) async fn leave(&mut self, user: &Client) {
        if self.owners.is_empty() {
            return;
        }
        let at = usize::try_from(random::below(self.owners.len() as u64)).unwrap();
        let name = self.owners.swap_remove(at);
        let params = match random::below(5) {
            0 => DeleteParams::background(),
            1 | 2 => DeleteParams::foreground(),
            _ => DeleteParams::orphan(),
        };
        let _ = api(user, "ConfigMap").delete(&name, &params).await.unwrap();
    }
}

/// The user holds nothing any more.
pub(crate) async fn let_go(user: &Client) {
    let secrets = api(user, "Secret");
    for secret in secrets.list(&ListParams::default()).await.unwrap() {
        let held = secret.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        if held {
            let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
            let name = objects::name(&secret.metadata);
            secrets.patch(name, &PatchParams::default(), &patch).await.unwrap();
        }
    }
}

/// What is left of garbage, in words.
pub(crate) async fn open(user: &Client) -> Vec<String> {
    let maps = api(user, "ConfigMap").list(&ListParams::default()).await.unwrap().items;
    let secrets = api(user, "Secret").list(&ListParams::default()).await.unwrap().items;
    let going = maps.iter().chain(&secrets).filter(|object| object.metadata.deletion_timestamp.is_some());
    let mut open: Vec<String> =
        going.map(|object| format!("{} is still being deleted", objects::name(&object.metadata))).collect();
    for secret in &secrets {
        for owner in secret.metadata.owner_references.iter().flatten() {
            if !maps.iter().any(|map| objects::uid(&map.metadata) == owner.uid) {
                let name = objects::name(&secret.metadata);
                open.push(format!("{name} in {NAMESPACE} names an owner that is gone: {}", owner.name));
            }
        }
    }
    open
}
