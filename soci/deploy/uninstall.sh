#!/bin/sh
# Takes penstock-snapshotter away from a node again. It runs on the node, as root (it is in
# /opt/penstock/bin), and not in a pod, whose own image may lie in the snapshotter. Take the node's
# label away first, or the DaemonSet installs it again. Safe to run again at any time. First new
# pods get containerd's own snapshotter; when no container uses ours any more (drain the node, or
# wait), the rest goes.
#   exit code 1: something failed, and the message says what
#   exit code 3: containers still run on it; nothing that they need was removed
#
#   SYSTEMCTL, CTR  how to call them (default: by their names)
#   UNIT            the service that runs containerd (default containerd.service)
#   CONTAINERD, CONFIG  containerd's program and configuration (default: those of the unit's command
#                   line, else containerd and /etc/containerd/config.toml)
#   DROPIN          what install.sh wrote (default /etc/containerd/conf.d/penstock.toml)
#   WAIT            seconds that containerd may take to answer after a restart (default 60)
set -eu
SYSTEMCTL=${SYSTEMCTL:-systemctl}
CTR=${CTR:-ctr}
UNIT=${UNIT:-containerd.service}
DROPIN=${DROPIN:-/etc/containerd/conf.d/penstock.toml}
WAIT=${WAIT:-60}
ROOT=/var/lib/penstock
BEFORE=${BEFORE:-/opt/penstock/dropin.before} # the file that is being replaced

fail() {
	echo "penstock: $*" >&2
	exit 1
}

command=$($SYSTEMCTL show --property=ExecStart --value "$UNIT" 2>/dev/null |
	sed -n 's/.*argv\[\]=\([^;]*\);.*/\1/p' | head -n 1) || command=
CONTAINERD=${CONTAINERD:-${command%% *}}
CONTAINERD=${CONTAINERD:-containerd}
CONFIG=${CONFIG:-$(echo "$command" | sed -n -e 's/.* --config[= ]\([^ ]*\).*/\1/p' -e 's/.* -c[= ]\([^ ]*\).*/\1/p')}
CONFIG=${CONFIG:-/etc/containerd/config.toml}

# restart: restarts containerd, if it accepts its configuration as it is now, and waits until it
# answers. Otherwise the file of before comes back. Running containers go on.
restart() {
	if ! refusal=$("$CONTAINERD" --config "$CONFIG" config dump 2>&1 >/dev/null); then
		mv "$BEFORE" "$DROPIN"
		fail "containerd would not start without $DROPIN, so it was put back and nothing was restarted: $refusal"
	fi
	rm -f "$BEFORE"
	$SYSTEMCTL restart "$UNIT" || fail "containerd does not start: see journalctl -u $UNIT"
	waited=0
	until $CTR version >/dev/null 2>&1; do
		[ "$waited" -lt "$WAIT" ] || fail "containerd does not answer '$CTR version' after $WAIT s: see journalctl -u $UNIT, and run this again"
		sleep 1
		waited=$((waited + 1))
	done
}

# 1. Kubernetes goes back to its default; the snapshotter stays known to containerd.
if grep -q '^# Kubernetes' "$DROPIN" 2>/dev/null; then
	sed '/^# Kubernetes/,$d' "$DROPIN" >"$DROPIN.new"
	mv "$DROPIN" "$BEFORE"
	mv "$DROPIN.new" "$DROPIN"
	restart
	echo "new pods use containerd's own snapshotter"
fi

# 2. Images that are unpacked in our snapshotter, and in no other, and whose layers containerd's
# store does not have, can not be unpacked elsewhere: they are pulled again when a pod needs them.
# All others stay, also those whose layers containerd has dropped after it unpacked them
# (discard_unpacked_layers).

# unpacked NAMESPACE SNAPSHOTTER: its images that are unpacked there.
unpacked() { $CTR -n "$1" images check --snapshotter "$2" 2>/dev/null | awk '$NF == "true" { print $1 }'; }
snapshotters=$($CTR plugins ls | awk '/snapshotter\.v1/ && $NF == "ok" { print $2 }')
case " $(echo "$snapshotters" | tr '\n' ' ') " in
*" penstock "*)
	for ns in $($CTR namespaces ls -q); do
		kept=$(for other in $snapshotters; do
			[ "$other" = penstock ] || unpacked "$ns" "$other"
		done)
		$CTR -n "$ns" images check --snapshotter penstock 2>/dev/null |
			awk '/ incomplete \(/ && $NF == "true" { print $1 }' | while read -r image; do
			if echo "$kept" | grep -qxF "$image"; then continue; fi
			$CTR -n "$ns" images rm --sync "$image" >/dev/null
			echo "removed $image, which will be pulled again"
		done
	done
	;;
esac

# 3. The rest, when no container uses it.
if grep -q " $ROOT/snapshots/\|[=:]$ROOT/snapshots/" /proc/mounts; then
	echo "containers still run on $ROOT: drain the node, and run this again" >&2
	exit 3
fi
if [ -e "$DROPIN" ]; then
	mv "$DROPIN" "$BEFORE"
	restart
fi
if [ -e /etc/systemd/system/penstock-snapshotter.service ]; then
	$SYSTEMCTL disable penstock-snapshotter.service
	$SYSTEMCTL stop penstock-snapshotter.service
	rm /etc/systemd/system/penstock-snapshotter.service
	$SYSTEMCTL daemon-reload
fi
rm -rf "$ROOT" /opt/penstock /run/penstock
echo "penstock-snapshotter is gone"
