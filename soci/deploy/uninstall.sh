#!/bin/sh
# Takes penstock-snapshotter away from a node again. It runs on the node, as root (it is in
# /opt/penstock/bin), and not in a pod, whose own image may lie in the snapshotter. Safe to
# run again at any time. First new pods get containerd's own snapshotter; when no container
# uses ours any more (drain the node, or wait), the rest goes.
#   exit code 3: containers still run on it; nothing that they need was removed
set -eu
SYSTEMCTL=${SYSTEMCTL:-systemctl}
CTR=${CTR:-ctr}
CONF=/etc/containerd/conf.d/penstock.toml
ROOT=/var/lib/penstock

# 1. Kubernetes goes back to its default; the snapshotter stays known to containerd.
if grep -q '^# Kubernetes' "$CONF" 2>/dev/null; then
	sed '/^# Kubernetes/,$d' "$CONF" >"$CONF.new"
	mv "$CONF.new" "$CONF"
	$SYSTEMCTL restart containerd.service
	until $CTR version >/dev/null 2>&1; do sleep 0.2; done
	echo "new pods use containerd's own snapshotter"
fi

# 2. Images without their layers in containerd's store can not be unpacked elsewhere: they
# are pulled again when somebody needs them.
for ns in $($CTR namespaces ls -q); do
	$CTR -n "$ns" images check 2>/dev/null | awk '/ incomplete \(/ { print $1 }' | while read -r image; do
		$CTR -n "$ns" images rm --sync "$image" >/dev/null
		echo "removed $image, which will be pulled again"
	done
done

# 3. The rest, when nobody uses it.
if grep -q " $ROOT/snapshots/\|[=:]$ROOT/snapshots/" /proc/mounts; then
	echo "containers still run on $ROOT: drain the node, and run this again" >&2
	exit 3
fi
if [ -e "$CONF" ]; then
	rm "$CONF"
	$SYSTEMCTL restart containerd.service
fi
if [ -e /etc/systemd/system/penstock-snapshotter.service ]; then
	$SYSTEMCTL disable penstock-snapshotter.service
	$SYSTEMCTL stop penstock-snapshotter.service
	rm /etc/systemd/system/penstock-snapshotter.service
	$SYSTEMCTL daemon-reload
fi
rm -rf "$ROOT" /opt/penstock /run/penstock
echo "penstock-snapshotter is gone"
