//! On-demand prices from AWS's price list: the region's, in the published form.

use std::time::Duration;

use serde_json::{Value, json};

use crate::region::Region;

fn head(cluster: &Value) -> &Value {
    &cluster["status"]["nodes"][0]["instance"]
}

#[test]
fn prices_are_looked_up_once_a_day_and_the_table_holds_where_they_cannot_be() {
    let region = Region::start(&[]);
    region.prices(json!({"m5.large": "0.111"}));
    region.faults(
        json!([{"action": "GetProducts", "error": "AccessDeniedException", "message": "not for you"}]),
    );
    let mut world = region.world();
    let groups = [region.group("w", (0, 1), "{onDemand: {}}", "g5.xlarge")];
    world.write("cluster.yaml", &region.cluster("cloud", "", &groups));
    world.ok(&["apply", "-f", "cluster.yaml"]);
    let refused = "on-demand as in the table of January 2026: cannot look into AWS's price list: \
                   AccessDeniedException: not for you";
    let squeezed = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    world.wait("the refusal is told", || squeezed(world.ok(&["status"])).contains(refused).then_some(()));
    let cluster = world.wait("the head has a price", || {
        Some(world.get("cluster", "cloud")).filter(|it| !head(it)["price"].is_null())
    });
    assert_eq!(head(&cluster)["price"], "0.096");
    world.wait("the cluster is ready", || {
        (world.get("cluster", "cloud")["status"]["phase"] == "Ready").then_some(())
    });
    let refusals = region.calls("GetProducts");
    assert!(refusals <= 2, "who may not ask does not go on asking: {refusals} calls");

    region.faults(json!([]));
    world.kill_controller();
    world.start(&[], &region.environment());
    let listed = |cluster: &Value| head(cluster)["price"] == "0.111";
    world.wait("the list holds", || Some(world.get("cluster", "cloud")).filter(listed));
    let status = world.ok(&["status"]);
    assert!(status.contains("on-demand as in AWS's price list of 20"), "{status}");
    assert_eq!(region.calls("GetProducts") - refusals, 2, "once for each type");
    // It is kept for another controller.
    region.prices(json!({}));
    world.kill_controller();
    world.start(&[], &region.environment());
    world.wait("it is planned again", || {
        world.get("cluster", "cloud")["status"]["cost"]["perHour"].as_str().map(str::to_owned)
    });
    std::thread::sleep(Duration::from_secs(5));
    assert!(listed(&world.get("cluster", "cloud")));
    assert_eq!(region.calls("GetProducts") - refusals, 2);
    region.finish(world);
}
