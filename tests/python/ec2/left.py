"""Everything left that somebody made, so that a test can demand that it is nothing."""


class Left:
    """What there is, less what there was when the region was ready."""

    def __init__(self, moto):
        self.moto = moto
        self.own = {(thing["kind"], thing["id"]) for thing in self._all()}

    def all(self):
        return [thing for thing in self._all() if (thing["kind"], thing["id"]) not in self.own]

    def _all(self):
        with self.moto.lock:
            return [
                {"kind": kind, "id": identity, "tags": tags, **more}
                for kind, identity, tags, more in (*self._of_ec2(), *self._of_ssm())
            ]

    def _of_ec2(self):
        ec2 = self.moto.ec2
        for instance in self.moto.instances():
            if instance.state != "terminated":
                yield "instance", instance.id, _tags(instance), {"state": instance.state}
        for volume in ec2.volumes.values():
            yield "volume", volume.id, _tags(volume), {"state": volume.status}
        for interface in ec2.enis.values():
            yield "interface", interface.id, _tags(interface), {"state": interface.status}
        for groups in ec2.groups.values():
            for group in groups.values():
                yield "group", group.id, _tags(group), {"name": group.name}
                for rule in (*group.ingress_rules, *group.egress_rules):
                    if not _comes_with_a_group(rule):
                        yield "rule", rule.id, _tags(rule), {"group": group.id}
        for address in ec2.addresses:
            yield "address", address.allocation_id, _tags(address), {"address": address.public_ip}
        for template in ec2.launch_templates.values():
            yield "template", template.id, _tags(template), {"name": template.name}
        for pair in ec2.key_pairs.values():
            yield "keyPair", pair.id, _tags(pair), {"name": pair.key_name}
        for snapshot in ec2.snapshots.values():
            yield "snapshot", snapshot.id, _tags(snapshot), {}

    def _of_ssm(self):
        ssm = self.moto.ssm
        for name in list(ssm._parameters):
            for parameter in ssm._parameters[name][-1:]:  # Looking for a name is enough for it to be a key.
                yield "parameter", parameter.name, ssm.list_tags_for_resource("Parameter", parameter.name), {}


def _tags(thing):
    return {tag["key"]: tag["value"] for tag in thing.get_tags()}


def _comes_with_a_group(rule):
    """Every group is made with a rule that lets everything out."""
    return rule.is_egress and rule.ip_protocol == "-1" and rule.ip_range.get("CidrIp") == "0.0.0.0/0"
