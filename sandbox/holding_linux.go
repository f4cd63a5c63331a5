package sandbox

// Held is the space that processes keep in files without a name: those they have open or
// mapped on the volumes of these folders. Runtimes that contain programs by other means
// call it.
func Held(pids []int, dirs []string) int64 { return heldBy(pids, dirs).bytes }
