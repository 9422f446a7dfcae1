module caisson/psxtest

go 1.16
