# debhelper's sequence addon: "Build-Depends: dh-sequence-prefork-sd", or "dh --with prefork-sd".
use strict;
use warnings;
use Debian::Debhelper::Dh_Lib;

# After the users, folders and byte code that a service may need, made by those before it.
insert_after('dh_installsystemd', 'dh_prefork_sd');

1;
