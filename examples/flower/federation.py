"""A SuperLink and its SuperNodes on this machine, over TLS, each node known by its key."""

import contextlib
import datetime
import ipaddress
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

APP = pathlib.Path(__file__).parent
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "NO_COLOR": "1",
}
PEM = serialization.Encoding.PEM


def _private(path: pathlib.Path, key: ec.EllipticCurvePrivateKey, kind: str) -> None:
    """Writes a private key that only its owner can read."""
    layout = getattr(serialization.PrivateFormat, kind)
    data = key.private_bytes(PEM, layout, serialization.NoEncryption())
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


def _certificate(subject: str, key, issuer: str, signer, *, authority: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
        )
    )
    if authority:
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    return builder.sign(signer, hashes.SHA384())


def make_certificates(folder: pathlib.Path) -> None:
    """`ca.pem`, and the SuperLink's `server.pem` and `server.key` for 127.0.0.1."""
    authority, server = (
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP384R1()),
    )
    name = "byzjax example CA"
    ca = _certificate(name, authority, name, authority, authority=True)
    own = _certificate("localhost", server, name, authority, authority=False)
    (folder / "ca.pem").write_bytes(ca.public_bytes(PEM))
    (folder / "server.pem").write_bytes(own.public_bytes(PEM))
    _private(folder / "server.key", server, "PKCS8")


def make_node_keys(folder: pathlib.Path, name: str) -> None:
    """A node's private key and its public one, which is registered with the SuperLink."""
    key = ec.generate_private_key(ec.SECP384R1())
    _private(folder / f"{name}.key", key, "OpenSSH")
    encoding, layout = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(encoding, layout))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Federation:
    """Processes with their logs in `folder`, all of which end with the `with` block."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder.resolve()
        self.processes: list[subprocess.Popen] = []
        programs = pathlib.Path(sys.executable).parent  # Flower starts its own by name
        self.environment = {
            **os.environ,
            **QUIET,
            "FLWR_HOME": str(self.folder / "home"),
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        self.address = f"127.0.0.1:{free_port()}"
        self.ids: list[str] = []

    def __enter__(self) -> "Federation":
        (self.folder / "home").mkdir(parents=True, exist_ok=True)
        make_certificates(self.folder)
        (self.folder / "home" / "config.toml").write_text(
            '[superlink]\ndefault = "local"\n\n[superlink.local]\n'
            f'address = "{self.address}"\nroot-certificates = "{self.folder / "ca.pem"}"\n'
        )
        return self

    def __exit__(self, *_) -> None:
        """Ends all processes that were started, by force if they do not end."""
        for process in self.processes:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + 10
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.1))
            _signal(process, signal.SIGKILL)
            process.wait(10)

    def _start(self, name: str, *command: str) -> subprocess.Popen:
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self.environment,
            cwd=self.folder,
            start_new_session=True,
        )
        log.close()
        self.processes.append(process)
        return process

    def superlink(self, timeout: float = 90) -> None:
        """Starts the SuperLink and waits until it accepts connections."""
        host, port = self.address.split(":")
        process = self._start(
            "superlink",
            _program("flower-superlink"),
            *("--host", host, "--port", port),
            *("--ssl-ca-certfile", str(self.folder / "ca.pem")),
            *("--ssl-certfile", str(self.folder / "server.pem")),
            *("--ssl-keyfile", str(self.folder / "server.key")),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        )
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                return
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no SuperLink; see {self.folder / 'superlink.log'}")
            time.sleep(0.3)

    def supernodes(self, settings: list[dict[str, str]]) -> None:
        """Registers and starts one SuperNode for each entry, with it as configuration."""
        names = [f"node{i}" for i in range(len(settings))]
        for name in names:
            make_node_keys(self.folder, name)
        self.ids = self._register([str(self.folder / f"{name}.pub") for name in names])
        for i, (name, node) in enumerate(zip(names, settings)):
            values = {**node, "partition-id": i, "num-partitions": len(settings)}
            self._start(
                name,
                _program("flower-supernode"),
                *("--superlink", self.address, "--port", str(free_port())),
                *("--root-certificates", str(self.folder / "ca.pem")),
                *("--auth-supernode-private-key", str(self.folder / f"{name}.key")),
                *("--node-config", _settings(values)),
            )

    def _register(self, keys: list[str]) -> list[str]:
        """`flwr supernode register KEY local` for each key, in one process; the nodes' ids."""
        program = (
            "import sys; from flwr.cli.app import app\n"
            "for key in sys.argv[1:]:\n"
            "    order = ['supernode', 'register', key, 'local', '--format', 'json']\n"
            "    app(order, standalone_mode=False)"
        )
        said = subprocess.run(
            [sys.executable, "-c", program, *keys],
            env=self.environment,
            check=True,
            timeout=180,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        return re.findall(r'"node-id":\s*"?(\d+)', said)

    def alive(self) -> None:
        """Raises if a process has ended that should run."""
        for process in self.processes:
            if process.poll() is not None:
                raise RuntimeError(f"a process of Flower ended; see the logs in {self.folder}")

    def lines(self, settings: dict[str, object]) -> Iterator[str]:
        """Starts a run and yields the lines of the server's log until it ends."""
        command = [_program("flwr"), "run", str(APP), "local", "--stream"]
        command += ["--run-config", _settings(settings)]
        self.alive()
        process = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        yield from process.stdout


def _program(name: str) -> str:
    """A program of this Python's environment."""
    return str(pathlib.Path(sys.executable).parent / name)


def _settings(values: dict[str, object]) -> str:
    """Settings as Flower's command line takes them."""
    return " ".join(
        f"{key}={value}" if isinstance(value, int | float) else f'{key}="{value}"'
        for key, value in values.items()
    )


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
