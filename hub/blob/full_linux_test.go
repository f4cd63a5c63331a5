package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/blob"
)

func init() { roles["small disk"] = fillSmallDisk }

// A disk of 4 MiB is mounted where only the test's child sees it.
func TestDisk_AFullDiskLosesNothing(t *testing.T) {
	cmd := again(t.Context(), "small disk", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
}

func fillSmallDisk(dir string) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		return fmt.Errorf("mount a small disk: %w", err)
	}
	d, err := blob.OpenDisk(dir, 0)
	if err != nil {
		return err
	}
	ctx, small, large := context.Background(), bytes.Repeat([]byte("s"), 1<<20), bytes.Repeat([]byte("l"), 5<<20)
	kept, _, err := d.Put(ctx, bytes.NewReader(small))
	if err != nil {
		return err
	}
	_, _, err = d.Put(ctx, bytes.NewReader(large))
	if !errors.Is(err, blob.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("put of 5 MiB = %v, want ErrFull", err)
	}
	w, err := d.Partial(spare.Sum(large), int64(len(large)))
	if err != nil {
		return err
	}
	if _, err := w.Write(large); !errors.Is(err, blob.ErrFull) {
		return fmt.Errorf("write of 5 MiB = %v, want ErrFull", err)
	}
	reached := w.Offset()
	if err := w.Close(); err != nil {
		return err
	}
	// The beginning is still good; without it there is room again.
	if _, freed, err := d.Sweep(ctx, map[spare.Digest]struct{}{kept: {}}, 0); err != nil || freed != reached {
		return fmt.Errorf("sweep freed %d, %v, want the %d bytes that came", freed, err, reached)
	}
	if _, _, err := d.Put(ctx, bytes.NewReader(large[:2<<20])); err != nil {
		return fmt.Errorf("put with room again: %w", err)
	}
	r, _, err := d.Open(kept, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, small) {
		return fmt.Errorf("the earlier blob is damaged: %v", err)
	}
	return nil
}
