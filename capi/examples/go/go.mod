module swell-decode

go 1.19
