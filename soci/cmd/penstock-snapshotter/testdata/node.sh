#!/bin/sh
# A node's life, in a mount namespace of its own: install, pull, upgrade, run, uninstall.
#   DEPLOY  soci/deploy      BIN    our programs     TOOLS  containerd and ctr
#   STATE   a new folder     IMAGE  what to pull     KEPT  an image that we never have
set -eu
say() { echo "== $*"; }
mount -t tmpfs tmpfs /etc/systemd/system
for dir in /opt/penstock /run/penstock /var/lib/penstock /etc/containerd; do
	mkdir -p "$STATE$dir"
	[ -d "$dir" ] || { mkdir -p "$dir" && echo "$dir" >>"$STATE/made"; }
	mount --bind "$STATE$dir" "$dir"
done
mkdir -p "$STATE/units"
cat >"$STATE/units/containerd.service" <<UNIT
ExecStart=$TOOLS/containerd --config /etc/containerd/config.toml
UNIT
cat >/etc/containerd/config.toml <<CONFIG
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]
root = "$STATE/root"
state = "$STATE/state"
[grpc]
  address = "$STATE/c.sock"
CONFIG
export UNITS="$STATE/units /etc/systemd/system" STATE SYSTEMCTL="$SYSTEMCTL" NODE=
ctr() { "$TOOLS/ctr" -a "$STATE/c.sock" -n k8s.io "$@"; }
# containerd goes on with a restarted daemon when it has connected again, after a pause.
ready() {
	until ctr version >/dev/null 2>&1 && [ -S /run/penstock/snapshotter.sock ] &&
		ctr snapshots --snapshotter penstock ls >/dev/null 2>&1; do sleep 0.1; done
}
# again is for what containerd does through a connection that it may still have to make, as
# kubelet tries again.
again() {
	for n in 1 2 3 4 5 6 7 8 9 10; do
		"$@" && return
		ctr snapshots --snapshotter penstock rm "$id" >/dev/null 2>&1 || true
		sleep 0.5
	done
	return 1
}
run() { id=$1 && again ctr run --rm --snapshotter penstock "$IMAGE" "$1"; }
pull() { ctr images pull --snapshotter penstock --plain-http "$IMAGE" >/dev/null; }
trap 'ctr tasks kill -s SIGKILL stays >/dev/null 2>&1 || true; $SYSTEMCTL stop penstock-snapshotter.service; $SYSTEMCTL stop containerd.service' EXIT

say install
$SYSTEMCTL restart containerd.service
HOST=/ FROM=$DEPLOY sh "$DEPLOY/install.sh"
ready
[ -S /run/penstock/images.sock ] || { say "no image service"; exit 1; }
id=none && again pull
run one
# Unpacked by containerd, which has dropped the layers since, as with discard_unpacked_layers.
ctr images pull --plain-http "$KEPT" >/dev/null
ctr content prune references >/dev/null
until ctr images check | grep -q "^$KEPT .*incomplete.*true"; do sleep 0.1; done

say upgrade
before=$(cat "$STATE/penstock-snapshotter.service.pid")
ctr run -d --snapshotter penstock "$IMAGE" stays /bin/hello wait
echo >>"$BIN/penstock-snapshotter" # other bytes, the same program
HOST=/ FROM=$DEPLOY sh "$DEPLOY/install.sh"
ready
[ "$(cat "$STATE/penstock-snapshotter.service.pid")" != "$before" ] || { say "not restarted"; exit 1; }
ctr tasks ls | grep -q 'stays.*RUNNING' || { say "the container did not survive"; exit 1; }
run two

say uninstall while a container runs
code=0
CTR="$TOOLS/ctr -a $STATE/c.sock" sh /opt/penstock/bin/uninstall.sh || code=$?
[ $code = 3 ] || { say "exit code $code"; exit 1; }
ctr tasks ls | grep -q 'stays.*RUNNING' || { say "the container did not survive"; exit 1; }
left=$(ctr images ls -q | grep -v ^sha256:) # CRI names each by its digest too
[ "$left" = "$KEPT" ] || { say "images left: $left, want $KEPT"; exit 1; }

say uninstall
ctr tasks kill -s SIGKILL stays
until ctr tasks ls | grep -q 'stays.*STOPPED'; do sleep 0.1; done
ctr tasks rm stays >/dev/null
ctr containers rm stays
# The script removes the folders, which are mounts here: what is in them counts.
CTR="$TOOLS/ctr -a $STATE/c.sock" sh /opt/penstock/bin/uninstall.sh || true
until ctr version >/dev/null 2>&1; do sleep 0.1; done
left=$(find /opt/penstock /run/penstock /var/lib/penstock /etc/containerd/conf.d /etc/systemd/system -mindepth 1)
[ -z "$left" ] || { say "left: $left"; exit 1; }
ctr run --rm "$KEPT" kept
ctr images pull --plain-http "$IMAGE" >/dev/null
ctr run --rm "$IMAGE" three
say done
