#!/bin/sh
# Installs penstock-snapshotter as a service of the node, and makes it the snapshotter of
# containerd's CRI plugin. The service cannot be a pod, because containerd needs it
# to start any pod.
#
# containerd is restarted only after it has read the merged configuration, and if
# that contains all of the node's own settings. Otherwise the script removes its
# configuration file again, and prints the reason.
#   exit code 0: containerd's configuration names the snapshotter, and containerd has read it
#   exit code 1: it does not, and containerd was not restarted or runs as before
#
#   HOST        the node's root directory (default /host)
#   NODE        command that runs a command on the node (default: nsenter into process 1)
#   SYSTEMCTL   command that calls systemctl on the node
#   UNIT        the service that runs containerd (default containerd.service)
#   CONTAINERD  containerd's program and CONFIG its configuration, as paths on the node
#               (default: those of the unit's command line, else containerd and /etc/containerd/config.toml)
#   DROPIN      file that containerd's configuration imports
#               (default /etc/containerd/conf.d/penstock.toml)
set -eu
HOST=${HOST:-/host}
NODE=${NODE-nsenter --target 1 --mount --uts --ipc --net --pid --}
SYSTEMCTL=${SYSTEMCTL:-$NODE systemctl}
UNIT=${UNIT:-containerd.service}
DROPIN=${DROPIN:-/etc/containerd/conf.d/penstock.toml}
FROM=${FROM:-/usr/local/share/penstock}
BIN=${BIN:-/usr/local/bin}
NOTES=$HOST/opt/penstock
mkdir -p "$NOTES"

fail() {
	echo "penstock: $*" >&2
	exit 1
}

# put SOURCE TARGET MODE [SERVICE] replaces a file by a rename if it differs. Then the
# service must be restarted, which is noted first, so that the run after a killed or
# failed one does it.
put() {
	if cmp -s "$1" "$HOST$2"; then return; fi
	mkdir -p "$(dirname "$HOST$2")"
	cp "$1" "$HOST$2.new"
	chmod "$3" "$HOST$2.new"
	if [ -n "${4-}" ]; then : >"$NOTES/restart-$4"; fi
	mv "$HOST$2.new" "$HOST$2"
	echo "installed $2"
}

put "$BIN/penstock-pull" /opt/penstock/bin/penstock-pull 0755
put "$FROM/uninstall.sh" /opt/penstock/bin/uninstall.sh 0755
put "$BIN/penstock-snapshotter" /opt/penstock/bin/penstock-snapshotter 0755 penstock-snapshotter
put "$FROM/penstock-snapshotter.service" /etc/systemd/system/penstock-snapshotter.service 0644 penstock-snapshotter
if [ -e "$NOTES/restart-penstock-snapshotter" ]; then # this does not affect running containers and snapshots
	$SYSTEMCTL daemon-reload
	$SYSTEMCTL enable penstock-snapshotter.service
	$SYSTEMCTL restart penstock-snapshotter.service
	rm "$NOTES/restart-penstock-snapshotter"
fi

# containerd comes last, when the socket exists.
command=$($SYSTEMCTL show --property=ExecStart --value "$UNIT" 2>/dev/null |
	sed -n 's/.*argv\[\]=\([^;]*\);.*/\1/p' | head -n 1) || command=
CONTAINERD=${CONTAINERD:-${command%% *}}
CONTAINERD=${CONTAINERD:-containerd}
CONFIG=${CONFIG:-$(echo "$command" | sed -n -e 's/.* --config[= ]\([^ ]*\).*/\1/p' -e 's/.* -c[= ]\([^ ]*\).*/\1/p')}
CONFIG=${CONFIG:-/etc/containerd/config.toml}

WORK=$NOTES/check
DROPPED=$HOST$DROPIN
SAVED=$NOTES/dropin.saved          # the file that this run, or a killed one, replaced
PENDING=$NOTES/restart-containerd # containerd has not been restarted with the new file
mkdir -p "$WORK"
trial=no # yes while the new file is tested
take_back() {
	if [ -e "$SAVED" ]; then mv "$SAVED" "$DROPPED"; else rm -f "$DROPPED"; fi
	rm -f "$PENDING"
	trial=no
}
leave() {
	if [ $trial = yes ]; then take_back; fi
	rm -rf "$WORK"
}
trap leave EXIT
trap 'exit 1' HUP INT TERM

# merged NAME writes containerd's merged configuration to $WORK/NAME, with one
# setting and its section on each line.
merged() {
	# shellcheck disable=SC2086 # NODE is several words
	$NODE "$CONTAINERD" --config "$CONFIG" config dump >"$WORK/dump" 2>"$WORK/errors" || return
	awk '
		/^[ \t]*\[/ { section = $0; gsub(/^[ \t]+|[ \t]+$/, "", section); gsub(/"/, "\047", section); next }
		/=/ { line = $0; gsub(/^[ \t]+|[ \t]+$/, "", line); print section " " line }
	' "$WORK/dump" | sort -u >"$WORK/$1"
}
words() { grep -v 'level=warning' "$WORK/errors" | tail -n 3 | tr '\n' ' '; }

# uses_us NAME reports whether the merged configuration makes the CRI plugin use the
# snapshotter. It does not if the file is not imported (no imports line, one in a
# comment, or one for other files), or if another file overrides it.
uses_us() {
	grep -q "^\[proxy_plugins.*penstock'*\] type = 'snapshot'" "$WORK/$1" ||
		why="containerd does not read $DROPIN: write imports = [\"$(dirname "$DROPIN")/*.toml\"] above the first section of $CONFIG"
	[ -n "$why" ] || grep -q "^\[plugins.'io.containerd.cri.v1.images'\] snapshotter = 'penstock'" "$WORK/$1" ||
		why="another file of containerd's configuration sets the snapshotter of io.containerd.cri.v1.images: take that line out"
	[ -n "$why" ] || ! grep "^ *disabled_plugins = " "$WORK/$1" | grep -Eq "'cri'|io.containerd.grpc.v1.cri|io.containerd.cri.v1.images" ||
		why="disabled_plugins in containerd's configuration turns the CRI plugin off: Kubernetes does not use this containerd"
	[ -z "$why" ]
}

# lost prints the node's own settings that are missing from the merged
# configuration. containerd 2.0 to 2.2 do not migrate an old root file that imports a
# newer one, and use their defaults instead.
lost() {
	grep -Ev -e '^ (version|imports) = ' \
		-e "^\[plugins.'io.containerd.cri.v1.images'\] (snapshotter|disable_snapshot_annotations) = " \
		-e "^\[proxy_plugins.*penstock" "$WORK/before" |
		grep -v -e "unpack_config.. [^s]" | grep -vxF -f "$WORK/after"
}

# The mount maps IDs of user namespaces only where the kernel supports it.
mappings=$("$BIN/penstock-snapshotter" capabilities) || fail "$BIN/penstock-snapshotter does not run on this node"
case " $mappings " in
*" remap-ids "*) cp "$FROM/containerd.toml" "$WORK/penstock.toml" ;;
*) sed '/^  capabilities = /d' "$FROM/containerd.toml" >"$WORK/penstock.toml" ;;
esac

why=
if [ ! -e "$PENDING" ] && cmp -s "$WORK/penstock.toml" "$DROPPED"; then
	merged after || fail "containerd refuses its configuration, and will not start again: $(words)"
	uses_us after || fail "$why"
	exit 0
fi

# 1. The configuration without our file.
if [ -e "$DROPPED" ] && [ ! -e "$PENDING" ]; then cp -p "$DROPPED" "$SAVED"; fi
: >"$PENDING"
trial=yes
rm -f "$DROPPED"
merged before || {
	take_back
	fail "can not read containerd's configuration by '$CONTAINERD --config $CONFIG config dump', so nothing of containerd was changed: $(words)"
}
# 2. The configuration with our file.
mkdir -p "$(dirname "$DROPPED")"
cp "$WORK/penstock.toml" "$DROPPED.new"
chmod 0644 "$DROPPED.new"
mv "$DROPPED.new" "$DROPPED"
merged after || {
	take_back
	fail "containerd would not start with $DROPIN beside $CONFIG, so it was taken back: $(words)(a root file below version 3 has to be migrated: $CONTAINERD config migrate)"
}
uses_us after || {
	take_back
	fail "$why"
}
missing=$(lost | head -n 5) || true
if [ -n "$missing" ]; then
	take_back
	fail "containerd would lose settings of this node with $DROPIN beside $CONFIG, so it was taken back: a root file below version 3 has to be migrated ($CONTAINERD config migrate). Lost:
$missing"
fi
echo "installed $DROPIN"
# 3. The configuration is good. If this run is killed from here on, the next one
# restarts containerd.
trial=no
if ! $SYSTEMCTL restart "$UNIT"; then # running containers are not affected
	take_back
	$SYSTEMCTL restart "$UNIT" || fail "containerd does not start with $DROPIN, and not without it either, which was taken back"
	fail "containerd did not start with $DROPIN, which was taken back; it runs without it"
fi
rm -f "$PENDING" "$SAVED"
