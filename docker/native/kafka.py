"""Apache Kafka of the native stack (the Kafka-protocol broker where Redpanda cannot run): one node, KRaft, SCRAM, ACLs.

Never creates topics by itself; provisioning does.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import uuid
from pathlib import Path

from core.config import Settings
from core.errors import StopTheStart
from core.messaging.provision import ADMIN
from docker.native.layout import KAFKA_JARS, LOOPBACK, Layout, Program, write_private

SERVER = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={host}:{controller}
listeners=SASL_PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=SASL_PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
inter.broker.listener.name=SASL_PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
# Committed offsets never go away: after a month down, every service goes on where it stopped.
offsets.retention.minutes=2147483647
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# One node, some twenty clients: more threads only switch.
num.io.threads=3
num.network.threads=2
log.index.size.max.bytes=2097152
# A broker restarted after kill -9 waits for its own old session to expire: 5 s with these, 12 s without.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=300
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1000
# The plain controller listener is on loopback and used by this node alone.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{admin};User:ANONYMOUS
sasl.enabled.mechanisms=SCRAM-SHA-256
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-256
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required username="{admin}" password="{password}";
"""

JAVA_OPTIONS = (
    "-Xms128m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # the second compiler would take seconds of CPU in the first minutes and never give them back
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "-Duser.timezone=UTC",
)


def _java() -> str:
    program = shutil.which("java")
    if program is None:
        raise StopTheStart("Java is missing (Kafka needs 17 or newer): run `make setup`, it says how to install it.")
    if not KAFKA_JARS.is_dir():
        raise StopTheStart(f"Kafka's jars are missing in {KAFKA_JARS}: run `make setup`.")
    return program


def _properties(settings: Settings, data: Path) -> str:
    return SERVER.format(
        host=LOOPBACK,
        port=settings.kafka_port,
        controller=settings.kafka_controller_port,
        data=str(data).replace("\\", "\\\\"),
        admin=ADMIN,
        password=settings.kafka_admin_password.get_secret_value(),
    )


def _arguments(config: Path, password: str) -> str:
    """The format command as a Java argument file, for command lines are for all to see."""
    cluster = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]  # a leading dash reads as an option
    words = [
        "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp", f"{KAFKA_JARS}/*", "kafka.tools.StorageTool", "format", "--standalone",
        "-t", cluster, "-c", str(config), "--add-scram", f"SCRAM-SHA-256=[name={ADMIN},password={password}]",
    ]  # fmt: skip
    return "".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"\n' for word in words)


def _make_data(java: str, settings: Settings, layout: Layout) -> None:
    """Format the storage once, with the admin's credentials in it (else the broker could not log in to itself).

    Whole or not at all: beside its place, then renamed. Never touches one that is there.
    """
    data = layout.data / "kafka"
    if data.exists():
        return
    new = layout.data / "kafka.new"
    if new.exists():  # of a start that was killed half-way
        shutil.rmtree(new)
    new.mkdir(parents=True, mode=0o700)
    config, arguments = layout.run / "kafka-format.properties", layout.run / "kafka-format.args"
    try:
        write_private(config, _properties(settings, new))
        write_private(arguments, _arguments(config, settings.kafka_admin_password.get_secret_value()))
        done = subprocess.run([java, f"@{arguments}"], capture_output=True, text=True, check=False, timeout=120)
    finally:
        config.unlink(missing_ok=True)
        arguments.unlink(missing_ok=True)
    if done.returncode != 0:
        raise StopTheStart(f"Kafka could not make its storage in {data}:\n{done.stdout}{done.stderr}".rstrip())
    new.rename(data)


def prepare(settings: Settings, layout: Layout) -> Program:
    """Write the configuration, format the storage when missing; answer how to run the broker.

    Raises:
        StopTheStart: Java or the jars are missing, or the storage cannot be made.
    """
    java = _java()
    config = layout.run / "kafka.properties"
    write_private(config, _properties(settings, layout.data / "kafka"))
    _make_data(java, settings, layout)
    return Program(
        name="kafka",
        command=(java, *JAVA_OPTIONS, "-cp", f"{KAFKA_JARS}/*", "kafka.Kafka", str(config)),
        ports=(settings.kafka_port, settings.kafka_controller_port),
        stop_wait=30,
        autostart=True,
    )
