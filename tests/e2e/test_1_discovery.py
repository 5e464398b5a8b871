"""Caches are found, named and labelled; failures of a listing lose nothing."""

import json

import pytest
import yaml

from conftest import until

HOME, SECOND = "123456789012", "210987654321"
EXPECTED = {
    "orders", "orders-reader", "sessions", "carts", "carts-reader", "ledger",
    "orders-elasticache-eu-west-1-210987654321", "impostor-elasticache-eu-west-1-210987654321",
}
KEYS = {"name", "description", "kind", "engine", "engine_version", "endpoint_type", "uri", "region", "account_id",
        "labels", "db_users", "health"}


def databases(world, who="alice"):
    return {row["name"]: row for row in world.json(who, "db", "ls")}


def names(report, part):
    return {row["name"] if isinstance(row, dict) else row for row in report[part]}


def writes(calls, table):
    written = ("PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems")
    return [call for call in calls if call["service"] == "dynamodb" and call["operation"] in written
            and table in str(call["resource"])]


def test_the_fixture_yields_its_databases(world):
    rows = databases(world)
    assert set(rows) == EXPECTED
    for row in rows.values():
        assert KEYS <= set(row), row
    orders = rows["orders"]
    assert (orders["kind"], orders["endpoint_type"], orders["engine"]) == ("elasticache", "primary", "valkey")
    assert (orders["region"], orders["account_id"], orders["db_users"]) == ("us-east-1", HOME, ["*"])
    assert orders["labels"]["env"] == "prod" and orders["labels"]["team"] == "shop"
    assert orders["labels"]["account-id"] == HOME and orders["labels"]["endpoint-type"] == "primary"
    assert orders["engine_version"].startswith(("7.", "8.", "9."))
    assert rows["orders-reader"]["endpoint_type"] == "reader"
    assert rows["sessions"]["endpoint_type"] == "configuration"
    assert (rows["carts"]["kind"], rows["carts"]["endpoint_type"]) == ("elasticache-serverless", "serverless")
    assert rows["carts-reader"]["endpoint_type"] == "reader"
    assert (rows["ledger"]["kind"], rows["ledger"]["endpoint_type"]) == ("memorydb", "cluster")
    abroad = rows["orders-elasticache-eu-west-1-210987654321"]
    assert (abroad["account_id"], abroad["region"], abroad["labels"]["team"]) == (SECOND, "eu-west-1", "emea")


def test_what_is_left_out_says_why(world):
    text = world.ok("alice", "discover", "status")
    for word in ("plain", "tls disabled", "forming", "status creating", "impostor", "name-conflict"):
        assert word in text, f"{word}:\n{text}"
    report = world.json("alice", "discover", "status")
    reasons = json.dumps(report)
    assert "tls disabled" in reasons and "status creating" in reasons


def test_the_impostor_takes_nothing(world):
    rows = databases(world)
    impostor = rows["impostor-elasticache-eu-west-1-210987654321"]
    assert impostor["account_id"] == SECOND and impostor["labels"]["account-id"] == SECOND
    assert rows["orders"]["account_id"] == HOME


def test_a_second_run_writes_nothing_to_the_policy(world):
    world.discover()
    world.forget_calls()
    report = world.discover()
    calls = world.calls()
    assert not names(report, "add") and not names(report, "change") and not names(report, "remove")
    assert writes(calls, world["KEYSTILE_POLICY_TABLE"]) == []
    assert len(writes(calls, world["KEYSTILE_RUNTIME_TABLE"])) <= 8


def test_a_dry_run_writes_nothing_and_names_each(world):
    world.forget_calls()
    plan = world.json("alice", "discover", "run", "--dry-run")
    assert {"add", "change", "remove", "skip"} <= set(plan)
    assert {"plain", "forming"} <= names(plan, "skip")
    assert writes(world.calls(), world["KEYSTILE_POLICY_TABLE"]) == []


def test_a_dry_run_with_other_matchers(world, tmp_path):
    file = tmp_path / "matchers.yaml"
    file.write_text(yaml.safe_dump({
        "kind": "matcher", "version": "ks1", "metadata": {"name": "home"},
        "spec": {"types": ["memorydb"], "regions": ["us-east-1"], "tags": {"env": "prod"}, "import_tags": ["env"]}}))
    plan = world.json("alice", "discover", "run", "--dry-run", "--matchers", file)
    assert "ledger" not in names(plan, "remove")
    assert set(databases(world)) == EXPECTED


def test_every_region_of_the_account(world, tmp_path):
    file = tmp_path / "matchers.yaml"
    file.write_text(yaml.safe_dump({
        "kind": "matcher", "version": "ks1", "metadata": {"name": "everywhere"},
        "spec": {"types": ["elasticache", "memorydb"], "regions": ["*"], "tags": {"*": "*"}}}))
    plan = world.json("alice", "discover", "run", "--dry-run", "--matchers", file)
    assert {scope["region"] for scope in plan["scopes"]} >= {"us-east-1", "eu-west-1"}


def test_only_an_editor_runs_it(world):
    for who in ("bob", "dave"):
        done = world.run(who, "discover", "run")
        assert done.returncode == 5, done.stderr
        assert "discovery" in done.stderr
    assert world.run("bob", "discover", "run", "--dry-run").returncode == 5


@pytest.mark.parametrize("fault", ["throttle", "error-before", "error-after", "drop"])
@pytest.mark.parametrize("operation", ["elasticache:DescribeReplicationGroups", "memorydb:DescribeClusters",
                                       "elasticache:DescribeServerlessCaches"])
def test_a_failed_listing_keeps_what_it_could_not_see(world, operation, fault):
    world.fault(operation, fault, count=50)
    report = world.discover()
    world.faults("DELETE")
    assert not names(report, "remove")
    assert any(not scope["complete"] for scope in report["scopes"]), report["scopes"]
    assert set(databases(world)) == EXPECTED


def test_a_missing_permission_is_named(world):
    world.fault("elasticache:DescribeServerlessCaches", "denied", count=50)
    report = world.discover()
    assert "no permission: elasticache:DescribeServerlessCaches" in json.dumps(report["scopes"])
    assert set(databases(world)) == EXPECTED


def test_tags_are_read_one_by_one_where_the_bulk_call_is_not_allowed(world, tmp_path):
    world.fault("tagging:*", "denied", count=50)
    report = world.discover()
    assert not names(report, "remove") and not names(report, "change"), report
    assert set(databases(world)) == EXPECTED
    file = tmp_path / "matchers.yaml"
    file.write_text(yaml.safe_dump({
        "kind": "matcher", "version": "ks1", "metadata": {"name": "paying"},
        "spec": {"types": ["memorydb"], "regions": ["us-east-1"], "tags": {"team": "pay"}, "import_tags": ["team"]}}))
    world.fault("tagging:*", "denied", count=50)
    plan = world.json("alice", "discover", "run", "--dry-run", "--matchers", file)
    assert all(scope["complete"] for scope in plan["scopes"]), plan["scopes"]


def test_a_rename_happens_at_the_next_run(world):
    client = world.aws("memorydb")
    arn = "arn:aws:memorydb:us-east-1:123456789012:cluster/ledger"
    client.tag_resource(ResourceArn=arn, Tags=[{"Key": "keystile.dev/name", "Value": "books"}])
    try:
        world.ok("alice", "discover", "run")
        rows = databases(world)
        assert "books" in rows and "ledger" not in rows
        assert rows["books"]["labels"].get("keystile.dev/name") is None
    finally:
        client.untag_resource(ResourceArn=arn, TagKeys=["keystile.dev/name"])
        world.ok("alice", "discover", "run")
    assert set(databases(world)) == EXPECTED


def test_a_user_that_is_new_is_known_after_a_run(world):
    found = world.json("alice", "get", "db_user")
    assert {"iam-ro", "iam-rw", "iam-admin", "managed-app", "static-app"} <= {user["spec"]["name"] for user in found}
    by_arn = {user["metadata"]["name"]: user["spec"] for user in found}
    managed = by_arn["arn:aws:elasticache:us-east-1:123456789012:user:managed-app"]
    assert managed["managed"] and managed["auth"] == "password" and "keystile" in managed["groups"]


ABROAD = "orders-elasticache-eu-west-1-210987654321"


@pytest.fixture
def behind_a_hub(world, tmp_path):
    """The second account's matcher goes through the hub, to a role that trusts nobody else; then as before."""
    before = yaml.safe_load(world.ok("alice", "get", "matcher/second", "--format", "yaml"))
    before = before[0] if isinstance(before, list) else before
    through = {"assume_role_arn": "arn:aws:iam::123456789012:role/keystile-hub"}
    file = tmp_path / "second.yaml"

    def write(**spec):
        file.write_text(yaml.safe_dump({**before, "spec": {**before["spec"], **spec}}))
        world.ok("alice", "create", "-f", file)

    write(assume_role_arn="arn:aws:iam::210987654321:role/keystile-spoke", through=through)
    yield write
    file.write_text(yaml.safe_dump(before))
    world.ok("alice", "create", "-f", file)
    world.discover()
    assert set(databases(world)) == EXPECTED


def test_an_account_behind_a_hub(world, behind_a_hub):
    world.forget_calls()
    report = world.json("alice", "discover", "run")
    assert not names(report, "remove") and all(scope["complete"] for scope in report["scopes"]), report
    assumed = [(call["caller"].split(":")[-1], call["status"]) for call in world.calls() if call["operation"] == "AssumeRole"]
    assert ("assumed-role/keystile-hub/keystile-discover", 200) in assumed, assumed
    label = world.json("alice", "db", "show", ABROAD)
    assert label["account_id"] == SECOND

    def reachable():
        # The proxies hear of the new way within ten seconds.
        world.forget_calls()
        with world.redis("alice", ABROAD, "iam-ro") as client:
            assert client.execute_command("ACL", "WHOAMI") == "iam-ro"
        return [call for call in world.calls() if call["caller"].endswith("keystile-hub/keystile-proxy")]

    until(reachable, 20, "a connection with the credentials of the role behind the hub")
    world.invoke("sync-labels")


def test_a_role_that_wants_the_hub_is_named(world, behind_a_hub):
    behind_a_hub(assume_role_arn="arn:aws:iam::210987654321:role/keystile-spoke", through=None)
    report = world.json("alice", "discover", "run")
    refused = "no permission: sts:AssumeRole (arn:aws:iam::210987654321:role/keystile-spoke)"
    assert refused in json.dumps(report["scopes"]) and not names(report, "remove")


def test_removals_past_the_brake_are_somebodys_word(world):
    audit = world.audit_length()
    report = world.json("alice", "discover", "run", "--dry-run", "--allow-removals", "123456789012/us-east-1/memorydb")
    assert (report["asked_by"], report["allowed_removals"]) == ("alice", ["123456789012/us-east-1/memorydb"])
    assert "asked by  alice; removals allowed: all" in world.ok("alice", "discover", "run", "--allow-removals", "all")
    runs = [event for event in world.audit(audit) if event["event"] == "keystile.discovery.run"]
    assert [(run["user"], run["details"]["allow_removals"]) for run in runs][-1] == ("alice", ["all"])
    wrong = world.run("alice", "discover", "run", "--allow-removals", "ledger")
    assert wrong.returncode == 2 and "ACCOUNT/REGION/TYPE" in wrong.stderr, wrong.stderr
    assert world.run("bob", "discover", "run", "--allow-removals", "all").returncode == 5
