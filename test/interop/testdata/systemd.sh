#!/bin/sh
# Boots a systemd of its own: in namespaces for processes, mounts, names and control
# groups, on a copy of this machine's files that is gone afterwards. The network is
# the caller's. Usage, as root: systemd.sh EMPTY-DIRECTORY PROGRAMS
set -eu
case "${3-}" in
"")
	for tree in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
		[ -f "$tree/cgroup.procs" ] || continue
		mkdir -p "$tree/madmail-test"
		echo $$ >"$tree/madmail-test/cgroup.procs"
	done
	exec unshare --fork --kill-child --pid --mount --uts --ipc --cgroup sh "$0" "$1" "$2" inside
	;;
esac
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir changes work root
mount -t overlay -o lowerdir=/,upperdir=changes,workdir=work overlay root
cd root
mkdir -p programs
mount --bind "$2" programs
mount -t proc proc proc
mount --rbind /dev dev
mount -t sysfs -o ro sysfs sys
if [ -d /sys/fs/cgroup/systemd ]; then
	mount -t tmpfs tmpfs sys/fs/cgroup
	mkdir sys/fs/cgroup/systemd
	mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
else
	mount -t cgroup2 cgroup2 sys/fs/cgroup
fi
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
: >etc/machine-id
rm -rf etc/systemd/system/*.wants
mkdir -p before
pivot_root . before
umount -l before
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C \
	/lib/systemd/systemd --unit=multi-user.target --log-target=console --show-status=0 </dev/null
