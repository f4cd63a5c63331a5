package sandbox

import "os"

// Owner is the user and group that programs run as on this machine when Spare is root:
// ids that own nothing. It reports false where root may not use them.
func Owner() (id int, ok bool) { return ownID, ownOwner() }

// Give makes a file or folder usable by Owner, as every run does with its mounts. Where
// there is no such owner it does nothing. Runtimes that contain programs by other means
// call it.
func Give(host string, writable bool) error {
	info, err := os.Stat(host)
	if err != nil || !ownOwner() {
		return err
	}
	return give(host, info, writable)
}
