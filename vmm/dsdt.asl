/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The platform in ACPI's language (ACPI 6.4). The numbers are those of vmm/platform.h; this table does not
 * depend on the machine's size, so it is compiled once, when weft is built.
 */
DefinitionBlock ("", "DSDT", 2, "WEFT", "WEFTVM", 1)
{
	Name (_S5, Package () { 5, 5, 0, 0 })

	Scope (\_SB)
	{
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_SEG, 0)
			Name (_BBN, 0)
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
					0, 0, 0, 0, 1)
				IO (Decode16, 0x0cf8, 0x0cf8, 1, 8)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					NonCacheable, ReadWrite,
					0, 0xd0000000, 0xdfffffff, 0, 0x10000000)
			})
		}

		/* Keeps the configuration space of bus 0 from being given to a device. */
		Device (ECAM)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_UID, 1)
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, 0xc0000000, 0x00100000)
			})
		}

		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 1)
			Name (_STA, 0x0f)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x03f8, 0x03f8, 1, 8)
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 4 }
			})
		}

		Device (PEVT)
		{
			Name (_HID, "QEMU0001") /* pvpanic */
			Name (_STA, 0x0f)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0505, 0x0505, 1, 1)
			})
		}

		Device (PWRB)
		{
			Name (_HID, EisaId ("PNP0C0C"))
			Name (_UID, 0)
		}

		/* Generic event device: one interrupt, one register that says why. */
		Device (GED)
		{
			Name (_HID, "ACPI0013")
			Name (_UID, 2)
			Name (_CRS, ResourceTemplate ()
			{
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 5 }
			})
			OperationRegion (EREG, SystemIO, 0x0605, 1)
			Field (EREG, ByteAcc, NoLock, WriteAsZeros)
			{
				ESEL, 8
			}
			Method (_EVT, 1, Serialized)
			{
				Local0 = ESEL
				If (Local0 & 1)
				{
					Notify (PWRB, 0x80)
				}
			}
		}
	}
}
