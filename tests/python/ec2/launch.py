"""What moto 5.2.5 gets wrong of launches, and we rely on: corrected in its own classes.

- MaxCount is ignored.
- So are client tokens, those of RunInstances and of CreateNetworkInterface.
- Interfaces made by a launch have no tags, and are kept when the instance ends. EC2 deletes them by default.
- An interface that is given to a launch may belong to another instance; its zone and groups are not the instance's.
- Block devices: the root volume is not there unless it is named, and may not be named without a size; throughput and
  iops are lost; volumes are kept by default; a registered image forgets its root device, and whether that is kept.
- An instance is running at once.
- Addresses of interfaces are drawn by lot, taken or not.
- User data has no limit; an unknown instance type has another error.
"""

import base64

from moto.ec2.exceptions import EC2ClientError, InvalidInstanceTypeError
from moto.ec2.models.instances import InstanceState
from moto.ec2.responses._base_response import EC2BaseResponse
from moto.ec2.responses.amis import AmisResponse
from moto.ec2.responses.elastic_network_interfaces import ElasticNetworkInterfaces
from moto.ec2.responses.instances import InstanceResponse

ROOT_GIB = 8
USER_DATA_BYTES = 16384
PENDING = ("pending", 0)
# Set by the proxy: there is capacity for no more instances than this.
AT_MOST = "X-Rayconcile-At-Most"

_run_instances = InstanceResponse.run_instances
_create_network_interface = ElasticNetworkInterfaces.create_network_interface
_register_image = AmisResponse.register_image


def correct():
    InstanceResponse.run_instances = run_instances
    InstanceResponse._parse_block_device_mapping = block_devices
    ElasticNetworkInterfaces.create_network_interface = create_network_interface
    AmisResponse.register_image = register_image
    # A repeated launch answers with what became of the instances.
    EC2BaseResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER.pop("RunInstances.Reservation.Instances.Instance.State", None)


def run_instances(self):
    return idempotent(self, launch_zone(self), lambda: really_run(self))


def idempotent(response, scope, make):
    """Make it, or answer with what the same token has made."""
    token = response._get_param("ClientToken")
    if token is None or response._get_param("DryRun"):
        return make()
    tokens = response.ec2_backend.__dict__.setdefault("client_tokens", {})
    parameters = {name: value for name, value in response.data.items() if name != "ClientToken"}
    known = tokens.get((parameters["Action"][0], scope, token))
    if known is None:
        result = make()
        tokens[(parameters["Action"][0], scope, token)] = (parameters, result)
        return result
    if known[0] != parameters:
        raise EC2ClientError(
            "IdempotentParameterMismatch",
            "The request uses the same client token as a previous, but non-identical request.",
        )
    return known[1]


def launch_zone(response):
    """A token counts within the zone of the launch."""
    backend, interfaces = response.ec2_backend, response._get_param("NetworkInterfaces", [])
    subnet = response._get_param("SubnetId")
    for interface in interfaces:
        if given := interface.get("NetworkInterfaceId"):
            return backend.get_network_interface(given).subnet.availability_zone
        subnet = subnet or interface.get("SubnetId")
    return backend.get_subnet(subnet).availability_zone if subnet else None


def really_run(self):
    least, most = self._get_int_param("MinCount", 1), self._get_int_param("MaxCount", 1)
    at_most = self.headers.get(AT_MOST)
    if at_most is not None:
        most = min(most, int(at_most))
        if most < least:
            raise EC2ClientError("InsufficientInstanceCapacity", "There is not enough capacity for that many.")
    if len(base64.b64decode(self._get_param("UserData", ""))) > USER_DATA_BYTES:
        raise EC2ClientError("InvalidParameterValue", f"User data is limited to {USER_DATA_BYTES} bytes")
    self.params["MinCount"] = most  # What moto takes for the number of instances.
    specifications = self._get_param("NetworkInterfaces", [])
    given = [specification.get("NetworkInterfaceId") for specification in specifications]
    for interface in map(self.ec2_backend.get_network_interface, filter(None, given)):
        if interface.instance is not None:
            raise EC2ClientError(
                "InvalidNetworkInterface.InUse", f"Interface {interface.id} is in use by another instance."
            )
        self.params.setdefault("Placement", {})["AvailabilityZone"] = interface.subnet.availability_zone
    try:
        result = _run_instances(self)
    except InvalidInstanceTypeError:
        wrong = self._get_param("InstanceType")
        raise EC2ClientError("InvalidParameterValue", f"Invalid value '{wrong}' for InstanceType.") from None
    tags = self._parse_tag_specification().get("network-interface", {})
    for instance in result.result.instances:
        instance._state = InstanceState(*PENDING)
        settle_interfaces(instance, specifications, tags)
        settle_volumes(instance, self._get_param("BlockDeviceMappings", []))
    return result


def settle_interfaces(instance, specifications, tags):
    by_index = {int(specification["DeviceIndex"]): specification for specification in specifications}
    for index, interface in instance.nics.items():
        specification = by_index.get(index, {})
        if not specification.get("NetworkInterfaceId"):
            interface.delete_on_termination = specification.get("DeleteOnTermination", True)
            interface.add_tags(tags)
        interface._group_set = list(dict.fromkeys(interface._group_set))
    primary = instance.nics[0]
    instance.security_groups = list(primary._group_set)
    instance._subnet_id = primary.subnet.id


def settle_volumes(instance, mappings):
    wanted = {mapping["DeviceName"]: mapping.get("Ebs", {}) for mapping in mappings}
    for device, block in instance.get_block_device_mapping:
        volume = instance.ec2_backend.volumes[block.volume_id]
        volume.iops = wanted.get(device, {}).get("Iops", volume.iops)
        volume.throughput = wanted.get(device, {}).get("Throughput", volume.throughput)


def block_devices(self):
    """What moto parses, with the root volume, and with the defaults that EC2 has."""
    images = self.ec2_backend.describe_images(ami_ids=[self._get_param("ImageId")])
    root = images[0].root_device_name or "/dev/sda1"
    given = {mapping["DeviceName"]: mapping for mapping in self._get_param("BlockDeviceMappings", [])}
    mappings = []
    for device, mapping in {root: {}, **given}.items():
        if "NoDevice" in mapping or "VirtualName" in mapping:
            continue
        ends = device != root or getattr(images[0], "root_ends", True)
        ebs = {"DeleteOnTermination": ends, **mapping.get("Ebs", {})}
        if device == root:
            ebs.setdefault("VolumeSize", ROOT_GIB)
        self._validate_block_device_mapping({"DeviceName": device, "Ebs": ebs})
        mappings.append({"DeviceName": device, "NoDevice": None, "Ebs": ebs})
    return mappings


def register_image(self):
    result = _register_image(self)
    image = self.ec2_backend.amis[result.result["ImageId"]]
    image.root_device_name = self._get_param("RootDeviceName", image.root_device_name)
    given = {mapping["DeviceName"]: mapping.get("Ebs", {}) for mapping in self._get_param("BlockDeviceMappings", [])}
    image.root_ends = given.get(image.root_device_name, {}).get("DeleteOnTermination", True)
    return result


def create_network_interface(self):
    return idempotent(self, None, lambda: really_create_interface(self))


def really_create_interface(self):
    subnet = self.ec2_backend.get_subnet(self._get_param("SubnetId"))
    address = self._get_param("PrivateIpAddress")
    if address is None:
        self.params["PrivateIpAddress"] = subnet.get_available_subnet_ip(None)
    elif address in subnet._subnet_ips:
        raise EC2ClientError("InvalidIPAddress.InUse", f"Address {address} is in use.")
    else:
        subnet.request_ip(address, None)
    return _create_network_interface(self)


def released(interface):
    """Its addresses are free again."""
    for address in interface.private_ip_addresses:
        interface.subnet.del_subnet_ip(address["PrivateIpAddress"])
