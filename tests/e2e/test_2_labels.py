"""Labels follow tags, and only those that may."""

from conftest import until

ORDERS = "arn:aws:elasticache:us-east-1:123456789012:replicationgroup:orders"


def labels(world, name):
    return next(row for row in world.json("alice", "db", "ls") if row["name"] == name)["labels"]


def tag(world, **tags):
    world.aws("elasticache").add_tags_to_resource(
        ResourceName=ORDERS, Tags=[{"Key": key, "Value": value} for key, value in tags.items()])


def test_a_tag_change_shows_after_one_run(world):
    tag(world, team="warehouse")
    try:
        world.invoke("sync-labels")
        assert labels(world, "orders")["team"] == "warehouse"
        assert labels(world, "orders-reader")["team"] == "warehouse"
    finally:
        tag(world, team="shop")
        world.invoke("sync-labels")
    assert labels(world, "orders")["team"] == "shop"


def test_a_removed_tag_removes_its_label(world):
    client = world.aws("elasticache")
    client.remove_tags_from_resource(ResourceName=ORDERS, TagKeys=["team"])
    try:
        world.invoke("sync-labels")
        assert "team" not in labels(world, "orders")
    finally:
        tag(world, team="shop")
        world.invoke("sync-labels")


def test_a_cache_without_any_tag_has_none_of_their_labels(world):
    """AWS leaves a resource without tags out of the bulk answer: it is asked for by itself."""
    ledger = "arn:aws:memorydb:us-east-1:123456789012:cluster/ledger"
    elasticache, memorydb = world.aws("elasticache"), world.aws("memorydb")
    elasticache.remove_tags_from_resource(ResourceName=ORDERS, TagKeys=["env", "team"])
    memorydb.untag_resource(ResourceArn=ledger, TagKeys=["env", "team"])
    try:
        world.invoke("sync-labels")
        assert not {"env", "team"} & set(labels(world, "orders"))
        assert not {"env", "team"} & set(labels(world, "ledger"))
        world.discover()
    finally:
        tag(world, env="prod", team="shop")
        memorydb.tag_resource(ResourceArn=ledger, Tags=[{"Key": "env", "Value": "prod"}, {"Key": "team", "Value": "pay"}])
        world.invoke("sync-labels")
    assert labels(world, "ledger")["team"] == "pay"


def test_tags_are_read_one_by_one_where_the_bulk_call_is_not_allowed(world):
    world.fault("tagging:*", "denied", count=50)
    tag(world, team="one-by-one")
    try:
        world.invoke("sync-labels")
        assert labels(world, "orders")["team"] == "one-by-one"
    finally:
        world.faults("DELETE")
        tag(world, team="shop")
        world.invoke("sync-labels")


def test_only_imported_keys_become_labels_and_none_that_discovery_owns(world):
    tag(world, colour="red", region="mars-1", **{"account-id": "1", "keystile.dev/default-db-user": "iam-admin"})
    try:
        world.invoke("sync-labels")
        world.discover()
        now = labels(world, "orders")
        assert "colour" not in now and "keystile.dev/default-db-user" not in now
        assert (now["region"], now["account-id"]) == ("us-east-1", "123456789012")
    finally:
        world.aws("elasticache").remove_tags_from_resource(
            ResourceName=ORDERS, TagKeys=["colour", "region", "account-id", "keystile.dev/default-db-user"])


def test_a_tag_that_cannot_be_read_keeps_its_label(world):
    tag(world, team="unseen")
    try:
        world.fault("tagging:*", "error-before", count=50)
        world.fault("elasticache:ListTagsForResource", "error-before", count=50)
        world.invoke("sync-labels", check=False)
        assert labels(world, "orders")["team"] == "shop"
        world.faults("DELETE")
        world.invoke("sync-labels")
        assert labels(world, "orders")["team"] == "unseen"
    finally:
        tag(world, team="shop")
        world.invoke("sync-labels")


def test_a_label_that_takes_a_right_away_cuts_the_session(world):
    """bob may use env=dev; when carts is prod, his live session ends with a text that says so."""
    carts = "arn:aws:elasticache:us-east-1:123456789012:serverlesscache:carts"
    client = world.aws("elasticache")
    session = world.redis("bob", "carts", "iam-ro")
    assert session.ping()
    client.add_tags_to_resource(ResourceName=carts, Tags=[{"Key": "env", "Value": "prod"}])
    try:
        world.invoke("sync-labels")

        def ended():
            try:
                session.ping()
                return False
            except Exception as error:
                return str(error) or "closed"

        until(ended, 15, "the end of bob's session")
        assert "carts" not in {row["name"] for row in world.json("bob", "db", "ls")}
    finally:
        client.add_tags_to_resource(ResourceName=carts, Tags=[{"Key": "env", "Value": "dev"}])
        world.invoke("sync-labels")
