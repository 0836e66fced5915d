"""moto in this process, with a network of private addresses that are addresses of this machine."""

import contextlib
import logging
import threading

import moto.settings
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.ssm.models import ssm_backends

from ec2 import launch, life

REGION = "us-west-2"
ZONES = ("us-west-2a", "us-west-2b")
# One of Amazon's own, which moto knows. Its root device is /dev/xvda.
IMAGE_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-6.1-x86_64"
INSTANCE_PROFILE = "rayconcile-node"


class Moto:
    """The application, and what is behind it."""

    def __init__(self, network):
        # As EC2 does, and moto only if told.
        moto.settings.ENABLE_AMI_VALIDATION = True
        moto.settings.EC2_ENABLE_INSTANCE_TYPE_VALIDATION = True
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        launch.correct()
        life.correct()
        # moto is not made for several threads. Whoever touches it holds this.
        self.lock = threading.RLock()
        self.application = DomainDispatcherApplication(create_backend_app)
        self.ec2 = ec2_backends[DEFAULT_ACCOUNT_ID][REGION]
        self.ssm = ssm_backends[DEFAULT_ACCOUNT_ID][REGION]
        self.image = self.ssm.get_parameters([IMAGE_PARAMETER])[IMAGE_PARAMETER].value
        # 127.N.0.0/16, of which each zone has a /20.
        self.vpc = self.ec2.create_vpc(f"{network}.0.0/16")
        self.subnets = {
            zone: self.ec2.create_subnet(self.vpc.id, f"{network}.{16 * number}.0/20", availability_zone=zone)
            for number, zone in enumerate(ZONES, 1)
        }
        iam_backends[DEFAULT_ACCOUNT_ID]["aws"].create_instance_profile(INSTANCE_PROFILE, "/", [])

    def instances(self):
        """All that moto knows, the terminated ones too."""
        return [instance for reservation in self.ec2.reservations.values() for instance in reservation.instances]

    def find(self, identity):
        """An instance by its id, or nothing."""
        return next((instance for instance in self.instances() if instance.id == identity), None)

    def at(self, address):
        """The instance that has a private address now, or nothing."""
        # A terminated one has none.
        return next((instance for instance in self.instances() if instance.private_ip_address == address), None)

    @contextlib.contextmanager
    def held(self, service):
        """The lock, unless the service has no part in instances: then a long upload would hold all others up."""
        if service in ("ec2", "ssm", "sts", "iam"):
            with self.lock:
                yield
        else:
            yield
