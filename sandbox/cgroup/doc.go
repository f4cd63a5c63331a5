// Package cgroup puts the processes of one run into a control group of the kernel's, so
// that they are counted, limited, frozen and killed as one. It owns finding out which
// control groups this process may make (version 2, delegated by systemd or as root;
// version 1; both at once), making one per run, and taking away those that crashed
// processes left. It never decides what a run may use, and where the machine offers no
// control groups it says so in a sentence: that is no error. Package sandbox calls it.
package cgroup
