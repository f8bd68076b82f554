use super::*;
use crate::config::Settings;

fn served() -> (Access, Health) {
    let health = Health::new();
    health.serving();
    (Access::new(health.clone(), Permissions::of(&Settings::default())), health)
}

#[test]
fn a_daemon_without_a_permission_is_not_ready_and_its_status_names_it() {
    let (access, health) = served();
    let refusal = "nats: Permissions Violation for Publish to \"$KV.presence.user.john\"";
    assert!(access.on_server_error(refusal));
    assert!(access.on_server_error(refusal));
    let condition = health.watch().borrow().clone();
    assert!(!condition.is_ready());
    let status = "permissions: grant publish on \"$KV.presence.>\" to the daemon's user";
    assert_eq!(condition.to_string(), status);
    access.on_server_error("nats: Permissions Violation for Subscription to \"$SRV.PING\"");
    let condition = health.watch().borrow().clone();
    let both = "grant publish on \"$KV.presence.>\", subscribe on \"$SRV.PING\"";
    assert!(condition.to_string().contains(both), "{condition}");
}

#[test]
fn an_answer_to_a_subject_of_a_clients_choice_does_not_make_it_unready() {
    let (access, health) = served();
    assert!(access.on_server_error("nats: Permissions Violation for Publish to \"orders.new\""));
    assert!(health.watch().borrow().is_ready());
}

#[test]
fn other_errors_of_the_server_are_no_refusals() {
    let (access, health) = served();
    assert!(!access.on_server_error("nats: authorization violation"));
    assert!(health.watch().borrow().is_ready());
}
