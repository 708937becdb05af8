#!/usr/bin/env python3
"""Checks a proof from `arw-cli ledger prove` with nothing but the log's public key.

usage: verify_proof.py PROOF.json LEDGER.pub

Plain Python 3, standard library only, written from RFC 6962 (the tree), RFC 8032 (Ed25519) and the C2SP
texts signed-note and tlog-checkpoint; it shares no code with the program that it checks.
Exit status: 0 the line is in the signed log, 1 it is not proved, 2 usage.
"""

import base64
import hashlib
import json
import sys


class Refused(Exception):
    """The proof proves nothing; the text says why."""


# --- Ed25519 verification (RFC 8032 section 5.1) -----------------------------------------------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_MINUS_ONE = pow(2, (P - 1) // 4, P)


def recover_x(y, sign):
    """The x of the point with this y; None if there is none."""
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P != 0:
        x = x * SQRT_MINUS_ONE % P
    if (x * x - x2) % P != 0:
        return None
    return P - x if (x & 1) != sign else x


def decompress(data):
    """32 bytes to a point in extended coordinates; None if they are no point."""
    y = int.from_bytes(data, "little")
    sign = y >> 255
    y &= (1 << 255) - 1
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def add(p, q):
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(scalar, point):
    result = (0, 1, 1, 0)
    while scalar > 0:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def same(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE = (recover_x(BASE_Y, 0), BASE_Y, 1, recover_x(BASE_Y, 0) * BASE_Y % P)


def ed25519_verify(public, message, signature):
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r = decompress(public), decompress(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= ORDER:
        return False
    if same(multiply(8, a), (0, 1, 1, 0)):
        return False  # a key of small order verifies anything
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    return same(multiply(s, BASE), add(r, multiply(k, a)))


# --- C2SP signed-note and tlog-checkpoint ------------------------------------------------------------


def parse_key(text):
    """`name+id+base64(0x01 || key)` to (name, id, key)."""
    try:
        name, key_id, blob = text.strip().split("+", 2)
        blob = base64.b64decode(blob, validate=True)
    except ValueError as error:
        raise Refused("the public key is not of the form name+id+base64") from error
    if len(blob) != 33 or blob[0] != 1:
        raise Refused("the public key is not an Ed25519 key")
    expected = hashlib.sha256(name.encode() + b"\n" + blob).digest()[:4]
    if expected.hex() != key_id:
        raise Refused("the id of the public key does not belong to it")
    return name, expected, blob[1:]


def open_checkpoint(note, key):
    """(size, root) of a signed tree head."""
    name, key_id, public = key
    text, separator, signatures = note.rpartition("\n\n")
    text += "\n"
    if not separator or not signatures.endswith("\n"):
        raise Refused("the checkpoint is not a signed note")
    signed = False
    for line in signatures.splitlines():
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != "\u2014":
            raise Refused("the checkpoint has a line that is no signature")
        try:
            blob = base64.b64decode(parts[2], validate=True)
        except ValueError as error:
            raise Refused("the checkpoint has a signature that is not base64") from error
        if parts[1] == name and blob[:4] == key_id:
            if not ed25519_verify(public, text.encode(), blob[4:]):
                raise Refused("the signature of the checkpoint is wrong")
            signed = True
    if not signed:
        raise Refused(f"the checkpoint is not signed by {name}")
    lines = text.split("\n")
    if len(lines) < 4 or lines[0] != name:
        raise Refused("the checkpoint is that of another log")
    if not lines[1].isascii() or not lines[1].isdigit() or str(int(lines[1])) != lines[1]:
        raise Refused("the size in the checkpoint is not a number")
    root = base64.b64decode(lines[2], validate=True)
    if len(root) != 32:
        raise Refused("the root in the checkpoint is not a hash")
    return int(lines[1]), root


# --- Merkle tree (RFC 6962 section 2.1; verification as in RFC 9162 section 2.1.3.2) ------------------


def node_hash(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_from_path(leaf, index, size, path):
    if not 0 <= index < size:
        raise Refused("the leaf lies outside of the tree")
    node, last, value = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise Refused("the path is too long")
        if node & 1 or node == last:
            value = node_hash(sibling, value)
            while node & 1 == 0 and node != 0:
                node >>= 1
                last >>= 1
        else:
            value = node_hash(value, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise Refused("the path is too short")
    return value


def check(proof, key):
    size, root = open_checkpoint(proof["checkpoint"], key)
    line = proof["line"].encode()
    if proof["tree_size"] != size:
        raise Refused("the proof is for a tree of another size than the checkpoint's")
    if json.loads(line)["seq"] != proof["leaf_index"] + 1 or proof["seq"] != proof["leaf_index"] + 1:
        raise Refused("the line does not have the number that its place gives it")
    path = [base64.b64decode(item, validate=True) for item in proof["path"]]
    if any(len(item) != 32 for item in path):
        raise Refused("the path holds something that is not a hash")
    leaf = hashlib.sha256(b"\x00" + line).digest()
    if root_from_path(leaf, proof["leaf_index"], size, path) != root:
        raise Refused("the path does not lead to the signed root")
    return size


def main(arguments):
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with open(arguments[0], encoding="utf-8") as file:
            proof = json.load(file)
        with open(arguments[1], encoding="utf-8") as file:
            key = parse_key(file.read())
        size = check(proof, key)
    except Refused as refused:
        print(f"not proved: {refused}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"not proved: the proof cannot be read: {error!r}", file=sys.stderr)
        return 1
    print(f"proved: line {proof['seq']} is in the log {key[0]} of {size} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
