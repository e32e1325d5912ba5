#!/bin/sh
# Installs penstock-snapshotter as a service of the node. It can not be a pod: containerd
# needs it to start pods, its own too.
#   HOST       the node's root directory (default /host)
#   SYSTEMCTL  how to call systemctl on the node
set -eu
HOST=${HOST:-/host}
SYSTEMCTL=${SYSTEMCTL:-nsenter --target 1 --mount --uts --ipc --net --pid -- systemctl}
FROM=${FROM:-/usr/local/share/penstock}
BIN=${BIN:-/usr/local/bin}
NOTES=$HOST/opt/penstock
mkdir -p "$NOTES"

# put SOURCE TARGET MODE [SERVICE]: replaces a file by rename, if it differs. The service has
# to be restarted then, which is noted before: who is ended here, or fails, does it next time.
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
if [ -e "$NOTES/restart-penstock-snapshotter" ]; then # running containers and snapshots do not notice
	$SYSTEMCTL daemon-reload
	$SYSTEMCTL enable penstock-snapshotter.service
	$SYSTEMCTL restart penstock-snapshotter.service
	rm "$NOTES/restart-penstock-snapshotter"
fi

# containerd is told last: the socket is there by now.
put "$FROM/containerd.toml" /etc/containerd/conf.d/penstock.toml 0644 containerd
if [ -e "$NOTES/restart-containerd" ]; then
	if ! grep -q 'conf\.d/\*\.toml' "$HOST/etc/containerd/config.toml" 2>/dev/null; then
		echo 'add imports = ["/etc/containerd/conf.d/*.toml"] to /etc/containerd/config.toml and restart containerd' >&2
	else
		$SYSTEMCTL restart containerd.service # running containers go on
	fi
	rm "$NOTES/restart-containerd"
fi
