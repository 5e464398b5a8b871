#!/usr/bin/env python3
"""Reads the IAM policies out of the templates.

    iam.py                     prints docs/IAM.md
    iam.py --check FILE        fails if FILE is not what it would print
    iam.py --calls FILE        evaluates recorded AWS calls against the policies: fails on an action that a
                               role needs and lacks, and on one that it has and never used

A recorded call is what the local world's front notes: service, operation, caller (an ARN), resource.
Needs PyYAML, which the template linters bring.
"""

import argparse
import fnmatch
import json
import pathlib
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Template role -> (title, name of the role that plays it in the local world).
ROLES = [
    ("template.yaml", "DiscoverRole", "functions/discover", "keystile-discover"),
    ("template.yaml", "SyncLabelsRole", "functions/sync-labels", "keystile-sync-labels"),
    ("template.yaml", "RotateRole", "functions/rotate", "keystile-rotate"),
    ("template.yaml", "AccessRole", "functions/access", "keystile-access"),
    ("template.yaml", "SchedulerRole", "the schedules", None),
    ("infra/proxy.yaml", "TaskRole", "the proxy", "keystile-proxy"),
    ("infra/proxy.yaml", "ExecutionRole", "starting the proxy's task", None),
]

# Granted for what the local world has no part of, or for what only happens in trouble. Each with its reason.
NOT_SEEN_HERE = {
    "logs:CreateLogStream": "the Lambda service itself writes logs",
    "logs:PutLogEvents": "the Lambda service itself writes logs",
    "sqs:SendMessage": "the Lambda service itself reports failures",
    "secretsmanager:GetSecretValue": "the local proxies read their certificate from files",
    "elasticache:Connect": "checked by the cache at AUTH, not by an API call",
    "memorydb:Connect": "checked by the cache at AUTH, not by an API call",
    "kms:Decrypt": "only of secrets with a key of their own; the world's have the account's",
    "RotateRole kms:GenerateDataKey": "as above",
    "RotateRole memorydb:DescribeUsers": "as below",
    "RotateRole secretsmanager:TagResource": "CreateSecret needs it for the tags that it sends",
    "RotateRole memorydb:UpdateUser": "no user of the world's MemoryDB is managed",
    "RotateRole sts:AssumeRole": "no user of the world's second account is managed",
    "RotateRole secretsmanager:UntagResource": "only where a proxy group no longer serves the user",
    "RotateRole dynamodb:DeleteItem on the runtime table": "only a month after a user was given up",
    "TaskRole dynamodb:DeleteItem": "a proxy's last call: the world's record may end before the proxy does",
    "DiscoverRole memorydb:ListTags": "only for a cluster that is new and untagged; the world has no such one",
}

# The rights behind an API operation, where they are not service:Operation.
RIGHTS = {
    "memorydb:DescribeACLs": ["memorydb:DescribeAcls"],
    "lambda:Invoke": ["lambda:InvokeFunction"],
    "sts:GetCallerIdentity": [],  # needs no right
}


class Loader(yaml.SafeLoader):
    """CloudFormation's short forms become readable text."""


def short_form(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        return value if suffix == "Sub" else "${" + value + "}"
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)


Loader.add_multi_constructor("!", short_form)


def spelled_out(node, names=None):
    """A loop over one name is what it says for that name."""
    names = names or {}
    if isinstance(node, str):
        for name, value in names.items():
            node = node.replace("${" + name + "}", value)
        return node
    if isinstance(node, list):
        return [spelled_out(part, names) for part in node]
    if not isinstance(node, dict):
        return node
    out = {}
    for key, value in node.items():
        if key.startswith("Fn::ForEach::"):
            name, (only,), body = value
            out.update(spelled_out(body, {**names, name: only}))
        else:
            out[spelled_out(key, names)] = spelled_out(value, names)
    return out


def policies(resources, role):
    """A role's own policies, and those that are attached to it beside it, which may stand under a condition."""
    found = list(resources[role]["Properties"]["Policies"])
    for resource in resources.values():
        if resource["Type"] == "AWS::IAM::RolePolicy" and resource["Properties"]["RoleName"] == "${" + role + "}":
            found.append({**resource["Properties"], "Condition": resource.get("Condition")})
    return found


def statements(template, role):
    document = spelled_out(yaml.load((ROOT / template).read_text(), Loader))
    found = []
    for policy in policies(document["Resources"], role):
        for statement in policy["PolicyDocument"]["Statement"]:
            as_list = lambda value: value if isinstance(value, list) else [value]
            sid = statement.get("Sid", "") + (f" (only with {policy['Condition']})" if policy.get("Condition") else "")
            found.append({**statement, "Sid": sid, "Action": as_list(statement["Action"]), "Resource": as_list(statement["Resource"])})
    return found


def markdown():
    lines = [
        "# Who may do what in AWS",
        "",
        "Printed by `infra/checks/iam.py` from `template.yaml` and `infra/proxy.yaml`; CI fails when they disagree.",
        "The end-to-end suite records every AWS call and checks it against these policies: nothing is missing, and",
        "nothing is granted that is never used (the exceptions are named in the script, with their reasons).",
    ]
    for template, role, title, _ in ROLES:
        lines += ["", f"## {title}", "", f"`{role}` in `{template}`", "", "| statement | actions | resources | condition |", "| --- | --- | --- | --- |"]
        for statement in statements(template, role):
            condition = json.dumps(statement.get("Condition", {})) if statement.get("Condition") else "–"
            lines.append(
                "| {} | {} | {} | {} |".format(
                    statement.get("Sid", ""),
                    "<br>".join(f"`{action}`" for action in statement["Action"]),
                    "<br>".join(f"`{resource}`" for resource in statement["Resource"]),
                    condition if condition == "–" else f"`{condition}`",
                )
            )
    return "\n".join(lines) + "\n"


def table_of(text):
    return "policy table" if "policy" in text.lower() else "runtime table"


def rights_of(call):
    """The rights that a call needs; DynamoDB's with the table that they are for."""
    name = f"{call['service']}:{call['operation']}"
    if call["service"] == "dynamodb":
        actions = [part["action"] for part in call.get("parts", [])] or [call["operation"]]
        return [f"dynamodb:{action} on the {table_of(call['resource'])}" for action in actions]
    if name == "tagging:GetResources":
        return ["tag:GetResources"]
    return RIGHTS.get(name, [name])


def check_calls(path):
    recorded = json.loads(pathlib.Path(path).read_text())["calls"]
    failures = 0
    for template, role, title, world_role in ROLES:
        if world_role is None:
            continue
        granted = {}
        for statement in statements(template, role):
            for action in statement["Action"]:
                table = f" on the {table_of(str(statement['Resource']))}" if action.startswith("dynamodb:") else ""
                granted.setdefault(action + table, 0)
        needed = {}
        for call in recorded:
            if f":assumed-role/{world_role}/" in call.get("caller", ""):
                for right in rights_of(call):
                    needed.setdefault(right, call)
        for right, call in sorted(needed.items()):
            if not any(fnmatch.fnmatchcase(right.lower(), action.lower()) for action in granted):
                print(f"{title}: {right} was called on {call.get('resource')} and {role} does not grant it")
                failures += 1
        for action in sorted(granted):
            used = any(fnmatch.fnmatchcase(right.lower(), action.lower()) for right in needed)
            if not used and action not in NOT_SEEN_HERE and f"{role} {action}" not in NOT_SEEN_HERE:
                print(f"{title}: {role} grants {action}, which was never used")
                failures += 1
        failures += check_leading_keys(title, role, template, world_role, recorded)
        print(f"{title}: {len(needed)} rights used, {len(granted)} granted")
    return failures


def check_leading_keys(title, role, template, world_role, recorded):
    """Each written item must fit a statement whose leading-key condition lets it through."""
    patterns = {}
    for statement in statements(template, role):
        for action in statement["Action"]:
            if action.startswith("dynamodb:"):
                table = "policy" if "Policy" in str(statement["Resource"]) else "runtime"
                keys = [
                    key.replace("${Group}", "default")
                    for operator in (statement.get("Condition") or {}).values()
                    for key in (operator.get("dynamodb:LeadingKeys") or ["*"])
                ] or ["*"]
                patterns.setdefault((action, table), []).extend(keys)
    wrong = set()
    for call in recorded:
        if call["service"] != "dynamodb" or f":assumed-role/{world_role}/" not in call.get("caller", ""):
            continue
        table = "policy" if "policy" in call["resource"] else "runtime"
        for part in call.get("parts", []):
            allowed = patterns.get((f"dynamodb:{part['action']}", table), [])
            if not any(fnmatch.fnmatchcase(part["key"], pattern) for pattern in allowed):
                wrong.add((part["action"], table, part["key"]))
    for action, table, key in sorted(wrong):
        print(f"{title}: {action} of {key} in the {table} table is outside {role}'s leading keys")
    return len(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", metavar="FILE")
    parser.add_argument("--calls", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.calls:
        sys.exit(1 if check_calls(arguments.calls) else 0)
    text = markdown()
    if not arguments.check:
        sys.stdout.write(text)
        return
    if (ROOT / arguments.check).read_text() != text:
        sys.exit(f"{arguments.check} is not what the templates say: run  infra/checks/iam.py > {arguments.check}")
    print(f"{arguments.check} agrees with the templates")


if __name__ == "__main__":
    main()
