package device

func systemPower(_ string, commands Commands) Power { return pmsetPower{commands} }
