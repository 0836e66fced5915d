"""What moto 5.2.5 gets wrong of what comes after a launch, and we rely on: corrected in its own classes.

- A terminated instance is terminated at once. Here it is `shutting-down` until the watcher has ended its processes
  and calls `finish`.
- Its interfaces stay in use by it. EC2 deletes those of the launch and detaches the others; the instance then has no
  address, subnet or group any more.
- What is in use can be deleted: interfaces, and security groups that interfaces or other groups' rules name.
- A call that authorizes several rules answers with some of them, and may add some and then fail.
- The console's output is always the same sample.
- DescribeInstances knows no filter `client-token`, `instance-lifecycle`.
"""

import base64
import copy

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.exceptions import DependencyViolationError, EC2ClientError
from moto.ec2.models.elastic_network_interfaces import NetworkInterfaceBackend
from moto.ec2.models.instances import Instance, InstanceState, StateReason
from moto.ec2.models.security_groups import SecurityGroupBackend
from moto.ec2.responses.general import General
from moto.ec2.responses.security_groups import SecurityGroups
from moto.ec2.utils import filter_dict_attribute_mapping

from ec2.launch import released

USER = "Client.UserInitiatedShutdown: User initiated shutdown"
ITSELF = "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
SPOT = "Server.SpotInstanceTermination: Spot instance termination"
FAILURE = "Server.InternalError: Internal error on launch"
CONSOLE_BYTES = 64 << 10

_delete_interface = NetworkInterfaceBackend.delete_network_interface
_delete_group = SecurityGroupBackend.delete_security_group


def correct():
    Instance.terminate = terminate
    Instance.private_ip = Instance.private_ip_address = property(lambda self: _of_primary(self, "private_ip_address"))
    Instance.public_ip = Instance.public_ip_address = property(lambda self: _of_primary(self, "public_ip"))
    Instance.private_dns_name = property(private_dns_name)
    NetworkInterfaceBackend.delete_network_interface = delete_network_interface
    SecurityGroupBackend.delete_security_group = delete_security_group
    SecurityGroups.authorize_security_group_ingress = authorize_security_group_ingress
    General.get_console_output = get_console_output
    filter_dict_attribute_mapping.update({"client-token": "client_token", "instance-lifecycle": "lifecycle"})


def terminate(self, reason=USER):
    """Begin to end. Returns the state before."""
    before = copy.copy(self._state)
    if before.name not in ("shutting-down", "terminated"):
        self._state = InstanceState("shutting-down", 32)
        self._reason = f"User initiated ({utcnow():%Y-%m-%d %H:%M:%S} UTC)" if reason == USER else reason.split(":")[0]
        self.state_reason = StateReason(reason, reason.split(":")[0])
    return before


def finish(instance):
    """The instance is gone, and what EC2 takes away with it."""
    for interface in list(instance.nics.values()):
        interface.stop()
        instance.detach_eni(interface)
        if interface.delete_on_termination:
            instance.ec2_backend.delete_network_interface(interface.id)
    instance.teardown_defaults()
    instance.security_groups, instance._subnet_id = [], None
    association = instance.ec2_backend.iam_instance_profile_associations.get(instance.id)
    if association:
        instance.ec2_backend.disassociate_iam_instance_profile(association_id=association.association_id)
    instance._state = InstanceState("terminated", 48)


def _of_primary(instance, attribute):
    return getattr(instance.nics[0], attribute) if instance.nics else None


def private_dns_name(instance):
    address = instance.private_ip
    return f"ip-{address.replace('.', '-')}.{instance.region_name}.compute.internal" if address else ""


def delete_network_interface(self, eni_id):
    interface = self.get_network_interface(eni_id)
    if interface.instance is not None:
        raise EC2ClientError("InvalidNetworkInterface.InUse", f"Interface {eni_id} is in use.")
    _delete_interface(self, eni_id)
    released(interface)


def delete_security_group(self, name=None, group_id=None):
    group = self.get_security_group_by_name_or_id(group_id or name)
    if group is not None and (users := _users(self, group)):
        raise DependencyViolationError(f"resource {group.id} has a dependent object: {', '.join(users)}")
    return _delete_group(self, name, group_id)


def _users(backend, group):
    interfaces = [interface.id for interface in backend.enis.values() if group in interface._group_set]
    others = [other for groups in backend.groups.values() for other in groups.values() if other is not group]
    rules = [
        rule.id
        for other in others
        for rule in (*other.ingress_rules, *other.egress_rules)
        if (rule.source_group or {}).get("GroupId") == group.id
    ]
    return interfaces + rules


def authorize_security_group_ingress(self):
    """All of them, or none."""
    self.error_on_dryrun()
    group = self.ec2_backend.get_security_group_by_name_or_id(self._get_param("GroupId", self._get_param("GroupName")))
    before, added = list(group.ingress_rules) if group is not None else [], []
    try:
        for rule in self._process_rules_from_querystring():
            added += self.ec2_backend.authorize_security_group_ingress(**rule)[0]
    except EC2ClientError:
        if group is not None:
            group.ingress_rules[:] = before
        raise
    return ActionResult({"Return": True, "SecurityGroupRules": added})


def get_console_output(self):
    """What the instance said, as far as EC2 keeps it. `ec2_backend.console` is the watcher's."""
    instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
    said = self.ec2_backend.console(instance.id, CONSOLE_BYTES)
    output = Base64EncodedString.from_encoded_bytes(base64.b64encode(said)) if said else None
    return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": output})
