package app

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"madmail/internal/fault"
	"madmail/internal/upkeep"
)

// blobAge is how old a blob is before it counts as left: whoever makes one links it soon.
const blobAge = time.Hour

// blobsTask removes bodies that earlier versions kept once for many mailboxes, in
// blobs/XX/SHA256, when no mailbox holds a link to them any more. This version makes none.
func (a *App) blobsTask() upkeep.Task {
	dir := filepath.Join(a.StateDir, "blobs")
	return upkeep.Task{
		Name: "gc-blobs", Doc: "Remove bodies in blobs/ of earlier versions that no mailbox links to any more", Every: 24 * time.Hour,
		On: func() (bool, string) {
			if st, err := os.Stat(dir); err != nil || !st.IsDir() {
				return false, "there is no directory blobs"
			}
			return linksAreCounted, "links to files are not counted on this system"
		},
		Run: func(ctx context.Context, _ time.Duration) (int, error) { return removeBlobs(ctx, dir, time.Now()) },
	}
}

func removeBlobs(ctx context.Context, dir string, now time.Time) (n int, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fault.Wrap(fault.Internal, err, "gc-blobs")
	}
	defer root.Close()
	groups, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return 0, fault.Wrap(fault.Internal, err, "gc-blobs")
	}
	for _, g := range groups {
		if !g.IsDir() || !isHex(g.Name(), 2) {
			continue
		}
		m, err := removeBlobsOf(ctx, root, g.Name(), now)
		if n += m; err != nil {
			return n, fault.Wrap(fault.Internal, err, "gc-blobs")
		}
	}
	return n, nil
}

func removeBlobsOf(ctx context.Context, root *os.Root, group string, now time.Time) (n int, err error) {
	d, err := root.Open(group)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	for {
		list, err := d.Readdir(256)
		for _, st := range list {
			if ctx.Err() != nil {
				return n, ctx.Err()
			}
			if links, known := linksOf(st); !known || links != 1 || !st.Mode().IsRegular() || !isHex(st.Name(), 64) || now.Sub(st.ModTime()) < blobAge {
				continue
			}
			if err := root.Remove(filepath.Join(group, st.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return n, err
			}
			n++
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
