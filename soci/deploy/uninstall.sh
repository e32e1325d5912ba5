#!/bin/sh
# Removes penstock-snapshotter from a node. Run it on the node as root (it is in
# /opt/penstock/bin), and not in a pod, whose own image may be in the snapshotter.
# Remove the node's label first, or the DaemonSet installs the snapshotter again.
# The script can be run again at any time. First, new pods get containerd's own
# snapshotter. Once no container uses ours (drain the node, or wait), the script
# removes the rest.
#   exit code 1: a step failed, which the message names
#   exit code 3: containers still use the snapshotter, and keep all files they need
#
#   SYSTEMCTL, CTR  how to call them (default: by their names)
#   UNIT            the service that runs containerd (default containerd.service)
#   CONTAINERD, CONFIG  containerd's program and configuration (default: those of the unit's command
#                   line, else containerd and /etc/containerd/config.toml)
#   DROPIN          file that install.sh wrote (default /etc/containerd/conf.d/penstock.toml)
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

# restart restarts containerd if it accepts its current configuration, and waits
# until it answers. Otherwise it restores the earlier file. Running containers are
# not affected.
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

# 1. Kubernetes returns to its default; containerd still knows the snapshotter.
if grep -q '^# Kubernetes' "$DROPIN" 2>/dev/null; then
	sed '/^# Kubernetes/,$d' "$DROPIN" >"$DROPIN.new"
	mv "$DROPIN" "$BEFORE"
	mv "$DROPIN.new" "$DROPIN"
	restart
	echo "new pods use containerd's own snapshotter"
fi

# 2. Images that are unpacked only in our snapshotter, and whose layers are not in
# containerd's store, cannot be unpacked elsewhere. They are removed, and pulled
# again when a pod needs them. All other images stay, also images whose layers
# containerd has dropped after unpacking them (discard_unpacked_layers).

# unpacked NAMESPACE SNAPSHOTTER prints the images of the namespace that are
# unpacked in the snapshotter.
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

# 3. The rest, once no container uses it.
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
