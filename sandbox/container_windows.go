package sandbox

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/windows"
)

var (
	userenv       = windows.NewLazySystemDLL("userenv.dll")
	createProfile = userenv.NewProc("CreateAppContainerProfile")
	deleteProfile = userenv.NewProc("DeleteAppContainerProfile")
)

// lowLabel is the label of low integrity, for a folder and all that will be in it: what
// an AppContainer may write to at all.
const lowLabel = "S:(ML;OICI;NW;;;LW)"

// interpreterSID is the capability that all runs have, and by which they read the
// interpreter where the owner has installed it for themselves alone. It grants nothing
// but what a folder's own list gives it.
const interpreterSID = "S-1-15-3-3417286542-1188529437-2762410958-3956702113"

// container is the AppContainer of one run: an identity that owns nothing and may use
// nothing but what was granted to it. It has no capability for any network.
type container struct {
	name    string
	sid     *windows.SID
	granted []grant
	mark    windows.Handle // as long as it is open, the container is in use
}

// marks is the folder where containers are noted, so that those of a process that was
// killed are found and removed later. A file that is open for one process alone cannot be removed.
func marks() string { return filepath.Join(os.TempDir(), "spare-appcontainers") }

func newContainer() (*container, error) {
	if err := os.MkdirAll(marks(), 0o700); err != nil {
		return nil, err
	}
	c := &container{name: containerName(strings.ToLower(rand.Text()))}
	mark, err := windows.UTF16PtrFromString(filepath.Join(marks(), c.name))
	if err != nil {
		return nil, err
	}
	if c.mark, err = windows.CreateFile(mark, windows.GENERIC_WRITE, 0, nil, windows.CREATE_NEW, windows.FILE_ATTRIBUTE_NORMAL, 0); err != nil {
		return nil, fmt.Errorf("note the AppContainer: %w", err)
	}
	name, err := windows.UTF16PtrFromString(c.name)
	if err != nil {
		return nil, err
	}
	result, _, _ := createProfile.Call(uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(name)), 0, 0, uintptr(unsafe.Pointer(&c.sid)))
	if result != 0 {
		c.close()
		return nil, fmt.Errorf("make the AppContainer %s: error 0x%08X; it needs Windows 8 or newer", c.name, uint32(result))
	}
	return c, nil
}

// close takes the container's grants back and removes it.
func (c *container) close() {
	for _, g := range c.granted {
		_ = setAccess(g.path, c.sid, 0, windows.REVOKE_ACCESS)
	}
	dropProfile(c.name)
	if c.sid != nil {
		_ = windows.FreeSid(c.sid)
	}
	_ = windows.CloseHandle(c.mark)
	_ = os.Remove(filepath.Join(marks(), c.name))
}

func dropProfile(name string) {
	if p, err := windows.UTF16PtrFromString(name); err == nil {
		_, _, _ = deleteProfile.Call(uintptr(unsafe.Pointer(p)))
	}
}

// sweep removes the containers of processes that ended without doing so.
var sweep = sync.OnceFunc(func() {
	entries, _ := os.ReadDir(marks())
	for _, e := range entries {
		if os.Remove(filepath.Join(marks(), e.Name())) == nil { // nobody has it open
			dropProfile(e.Name())
		}
	}
})

// grant opens a folder or file to the container.
func (c *container) grant(g grant) error {
	access := windows.ACCESS_MASK(windows.GENERIC_READ | windows.GENERIC_EXECUTE)
	if g.write {
		access |= windows.GENERIC_WRITE | windows.DELETE | fileDeleteChild
	}
	c.granted = append(c.granted, g)
	if err := setAccess(g.path, c.sid, access, windows.GRANT_ACCESS); err != nil {
		return fmt.Errorf("open %s to the sandbox: %w", g.path, err)
	}
	if !g.write {
		return nil
	}
	sd, err := windows.SecurityDescriptorFromString(lowLabel)
	if err != nil {
		return err
	}
	label, _, err := sd.SACL()
	if err != nil {
		return err
	}
	if err := windows.SetNamedSecurityInfo(g.path, windows.SE_FILE_OBJECT, windows.LABEL_SECURITY_INFORMATION, nil, nil, nil, label); err != nil {
		return fmt.Errorf("label %s for the sandbox: %w", g.path, err)
	}
	return nil
}

const fileDeleteChild = 0x40

// listed guards the lists of folders that several runs share: a list is read, changed and
// written back.
var listed sync.Mutex

// setAccess changes what one identity may do with a folder and all in it.
func setAccess(name string, sid *windows.SID, access windows.ACCESS_MASK, mode windows.ACCESS_MODE) error {
	if sid == nil {
		return errors.New("there is no identity to open it to")
	}
	listed.Lock()
	defer listed.Unlock()
	sd, err := windows.GetNamedSecurityInfo(name, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return err
	}
	old, _, err := sd.DACL()
	if err != nil {
		return err
	}
	inheritance := uint32(windows.NO_INHERITANCE)
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		inheritance = windows.SUB_CONTAINERS_AND_OBJECTS_INHERIT
	}
	list, err := windows.ACLFromEntries([]windows.EXPLICIT_ACCESS{{
		AccessPermissions: access, AccessMode: mode, Inheritance: inheritance,
		Trustee: windows.TRUSTEE{
			TrusteeForm: windows.TRUSTEE_IS_SID, TrusteeType: windows.TRUSTEE_IS_UNKNOWN, TrusteeValue: windows.TrusteeValueFromSID(sid),
		},
	}}, old)
	if err != nil {
		return err
	}
	return windows.SetNamedSecurityInfo(name, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION, nil, nil, list, nil)
}

// openInterpreter lets every run read the interpreter's folder. Where Windows does that
// already, in Program Files, an ordinary user may not, and need not.
func openInterpreter(folder string) (*windows.SID, error) {
	sid, err := windows.StringToSid(interpreterSID)
	if err != nil {
		return nil, err
	}
	sd, err := windows.GetNamedSecurityInfo(folder, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err == nil && strings.Contains(sd.String(), interpreterSID) {
		return sid, nil
	}
	err = setAccess(folder, sid, windows.GENERIC_READ|windows.GENERIC_EXECUTE, windows.GRANT_ACCESS)
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		err = nil
	}
	return sid, err
}
