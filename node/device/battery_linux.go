package device

import "os"

func systemPower(sys string, _ Commands) Power { return sysfsPower{os.DirFS(sys)} }
