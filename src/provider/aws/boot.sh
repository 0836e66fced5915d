# shellcheck shell=bash disable=SC2329 # functions are called by name: by persist, by trap
# How an EC2 instance becomes a node of a Ray cluster, and how it ends itself when nobody needs it.
#
# User data is `#!/bin/bash`, the settings (RC_...), and this file; `userdata.rs` puts it together. It holds no secret.
# cloud-init runs it as root at the first boot; it has itself run at later ones. It may be run twice at any time: while
# one runs, another ends at once; after one, another finds what is there.
#
# In order: what the metadata service says; the data disk; EFS; Ray's token; the container; the set-up commands; then
# `ray start` again and again. Beside them a watch ends the instance if it does not join in time, and when it has had no
# job and heard of no controller for long: the agent on the head tells of both, and workers show themselves in a file
# (`beat.py`), also when the agent is dead. What cannot become a node is shut down, which terminates it: none costs for
# nothing. The image must have bash 4.4, curl and flock; for a container Docker, for a token the AWS CLI.
#
# Ports, beside those of the settings: Ray's client 10001 and workers 10002-19999 are Ray's own choice. What Ray would
# leave to chance is at 8271-8276, beside the dashboard's and the agent's: below those that the kernel gives to outgoing
# connections (32768 and up), which may be taken when Ray starts, and clear of those that AdaptDL's workers meet at
# (20000-31999).
#
# For tests, the environment may say:
#   RAYCONCILE_ROOT           a directory that stands for / where this writes, and looks for the GPU's device
#   RAYCONCILE_ADDRESS        the node's own address, which else the metadata service is asked for
#   RAYCONCILE_METADATA       the address of the metadata service
#   RAYCONCILE_RAY            the command `ray`, in words
#   RAYCONCILE_RAY_TEMP       Ray's --temp-dir
#   RAYCONCILE_RAY_ARGUMENTS  more arguments of `ray start`, one a line, after all others: Ray takes the last
#   RAYCONCILE_RETRY_S, RAYCONCILE_RESTART_MAX_S: the first wait before another try, which doubles from try to try,
#   and the longest one before Ray is started again; RAYCONCILE_JOIN_POLL_S, RAYCONCILE_ORPHAN_POLL_S: how often it is
#   asked whether the node has joined, and whether somebody needs it

set -uo pipefail

ROOT=${RAYCONCILE_ROOT:-}
METADATA=${RAYCONCILE_METADATA:-http://169.254.169.254}
RETRY_S=${RAYCONCILE_RETRY_S:-5} RETRY_MAX_S=60
RESTART_MAX_S=${RAYCONCILE_RESTART_MAX_S:-30}
JOIN_POLL_S=${RAYCONCILE_JOIN_POLL_S:-5}
ORPHAN_POLL_S=${RAYCONCILE_ORPHAN_POLL_S:-30}
RUN=$ROOT/run/rayconcile
TOKEN=$RUN/ray-token
BEAT=$RUN/beat
LOG=$ROOT/var/log/rayconcile-boot.log
CONTAINER=rayconcile
DATA_LABEL=rayconcile-data # A label of ext4 has at most 16 characters.
# "Recommended NFS mount options" of the Amazon EFS User Guide.
NFS_OPTIONS=nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport

say() { echo "rayconcile $(date -u +%FT%TZ): $*"; }

# Seconds since the machine has been up: no change of the clock changes them.
uptime_s() {
    local up
    read -r up _ </proc/uptime
    echo "${up%.*}"
}

pause() {
    sleep "$1" 9>&- & # Beside, so that a signal is heeded at once.
    wait $!
}

# Prints twice a wait, but no more than the longest.
longer() { awk -v wait="$1" -v most="$2" 'BEGIN { wait *= 2; print (wait < most ? wait : most) }'; }

# Shuts the machine down, which terminates the instance, and sees to it until it is off.
give_up() {
    trap - EXIT
    say "this instance ends itself: $*"
    while true; do
        shutdown -h now || systemctl poweroff --force
        pause 30
    done
}

# Whoever sends a signal, such as the machine on its way down, knows what it does.
stand_aside() {
    trap - EXIT
    exit 143
}

is_late() { (($(uptime_s) - STARTED >= RC_JOIN_S)); }

# Runs a command, the first word says what for, until it succeeds or the time to join is over.
persist() {
    local what=$1 wait_s=$RETRY_S
    shift
    until "$@"; do
        is_late && give_up "$what failed for $RC_JOIN_S s"
        say "$what failed; again in $wait_s s"
        pause "$wait_s"
        wait_s=$(longer "$wait_s" "$RETRY_MAX_S")
    done
}

# Has a command installed that the image lacks: its name, and the package of Debian's and of Red Hat's kind.
need() {
    command -v "$1" >/dev/null && return
    say "$1 is missing and is being installed"
    if command -v apt-get >/dev/null; then
        apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install "$2"
    else
        yum -q -y install "$3"
    fi
}

# --- The instance ------------------------------------------------------------------------------------------------

ask() { curl --silent --show-error --fail --max-time 10 --noproxy '*' "$@"; }

# Prints what the metadata service says (version 2: with a token).
metadata() {
    local session
    session=$(ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$METADATA/latest/api/token") &&
        ask -H "X-aws-ec2-metadata-token: $session" "$METADATA/latest/meta-data/$1"
}

learn_facts() {
    INSTANCE=$(metadata instance-id) && ADDRESS=${RAYCONCILE_ADDRESS:-$(metadata local-ipv4)} &&
        [[ -n $INSTANCE && -n $ADDRESS ]]
}

# User data is run at the first boot only, but after a later one the instance must be a node again, or end itself. On
# another instance, of an image that somebody made of this one, this does nothing.
run_at_every_boot() {
    local launcher=$ROOT/var/lib/cloud/scripts/per-boot/rayconcile current=$ROOT/var/lib/cloud/instance
    [[ -d ${launcher%/*} && -f $0 ]] || return 0
    printf '#!/bin/bash\n[[ ! %q -ef %q ]] || exec bash %q\n' "$current" "${current}s/$INSTANCE" "$0" |
        install -m 0755 /dev/stdin "$launcher"
}

# --- Disks -------------------------------------------------------------------------------------------------------

# Prints the disks that nothing is on and nothing uses: of EC2's own kinds, without partitions, file system or mount.
# Names say nothing: they differ between types and from boot to boot.
blank_disks() {
    local listing line name model
    local blank='^NAME="([^"]*)" TYPE="disk" FSTYPE="" MOUNTPOINT="" RO="0" PKNAME="" MODEL="([^"]*)"'
    listing=$(lsblk --paths --pairs --output NAME,TYPE,FSTYPE,MOUNTPOINT,RO,PKNAME,MODEL) || return
    while IFS= read -r line; do
        [[ $line =~ $blank ]] || continue
        name=${BASH_REMATCH[1]} model=${BASH_REMATCH[2]}
        # Somebody is on it: a partition, a volume, an array.
        [[ $listing != *"PKNAME=\"$name\""* ]] || continue
        case $model in
            Amazon*EC2*NVMe*Instance*Storage* | Amazon*Elastic*Block*Store*) ;;
            '') [[ $name == /dev/xvd* ]] || continue ;; # Of Xen, whose disks have no model.
            *) continue ;;
        esac
        # lsblk says what udev has noted; this looks at the disk itself (2: there is nothing).
        blkid --probe "$name" >/dev/null 2>&1
        [[ $? == 2 ]] || continue
        echo "$name"
    done <<<"$listing"
}

# Mounts the blank disks as one, made into a file system if they are none yet.
mount_data() {
    local target=$ROOT$RC_DATA_PATH device disks
    mkdir -p "$target" || return
    ! mountpoint -q "$target" || return 0
    mdadm --assemble /dev/md/rayconcile --name=rayconcile >/dev/null 2>&1 # After another boot.
    device=$(blkid --label "$DATA_LABEL")
    if [[ -z $device ]]; then
        mapfile -t disks < <(blank_disks)
        if ((${#disks[@]} == 0)); then
            say "no disk is blank: $RC_DATA_PATH is on the root disk"
            return 0
        fi
        device=${disks[0]}
        if ((${#disks[@]} > 1)); then
            device=/dev/md/rayconcile
            need mdadm mdadm mdadm || return
            mdadm --create "$device" --run --homehost=any --name=rayconcile --level=0 \
                --raid-devices="${#disks[@]}" "${disks[@]}" || return
        fi
        say "making $RC_DATA_PATH of ${disks[*]}"
        mkfs.ext4 -q -L "$DATA_LABEL" "$device" || return
    fi
    mount -o noatime "$device" "$target"
}

# Has Docker keep its data on the data disk, beside whatever else it was told.
move_docker() {
    local settings=$ROOT/etc/docker/daemon.json
    command -v docker >/dev/null || return 0
    mkdir -p "${settings%/*}" "$ROOT$RC_DATA_PATH/docker" || return
    [[ -s $settings ]] || echo '{}' >"$settings"
    python3 -c '
import json, sys
settings = json.load(open(sys.argv[1]))
json.dump({**settings, "data-root": sys.argv[2]}, open(sys.argv[1] + ".new", "w"), indent=2)
' "$settings" "$ROOT$RC_DATA_PATH/docker" && mv "$settings.new" "$settings" && systemctl restart docker
}

# Mounts a directory of an EFS file system: its id, the directory, the place.
mount_efs() {
    local domain=amazonaws.com
    [[ $RC_REGION == cn-* ]] && domain=amazonaws.com.cn
    ! mountpoint -q "$ROOT$3" || return 0
    need mount.nfs4 nfs-common nfs-utils && mkdir -p "$ROOT$3" &&
        mount -t nfs4 -o "$NFS_OPTIONS" "$1.efs.$RC_REGION.$domain:$2" "$ROOT$3"
}

# --- Token, environment, container -------------------------------------------------------------------------------

fetch_token() {
    (umask 077 && aws ssm get-parameter --with-decryption --name "$RC_TOKEN_PARAMETER" --query Parameter.Value \
        --output text --region "$RC_REGION" >"$TOKEN.new") && [[ -s $TOKEN.new ]] && mv "$TOKEN.new" "$TOKEN"
}

# The environment of everything in the node, each name once: of two values the last counts.
make_environment() {
    local variable
    local -A named
    for variable in "${RC_ENV[@]}" "${RC_RAY_ENV[@]}" RAY_USAGE_STATS_ENABLED=0 "RAY_CLOUD_INSTANCE_ID=$INSTANCE" \
        "RAYCONCILE_BEAT=$BEAT" RAY_AUTH_MODE=disabled \
        ${RC_TOKEN_PARAMETER:+RAY_AUTH_MODE=token "RAY_AUTH_TOKEN_PATH=$TOKEN"}; do
        named[${variable%%=*}]=$variable
    done
    NODE_ENV=("${named[@]}")
}

docker_answers() { docker info >/dev/null 2>&1 || { systemctl start docker && docker info >/dev/null; }; }

# A registry of ECR asks for a password that the instance's profile gives.
pull_image() {
    local registry=${RC_DOCKER_IMAGE%%/*}
    local ecr='^[0-9]+\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$'
    if [[ $registry =~ $ecr ]]; then
        aws ecr get-login-password --region "${BASH_REMATCH[1]}" |
            docker login --username AWS --password-stdin "$registry" || return
    fi
    docker pull --quiet "$RC_DOCKER_IMAGE"
}

# Whether an option of `docker run` is among the user's.
is_given() {
    local option
    for option in "${RC_DOCKER_OPTIONS[@]}"; do
        [[ ${option%%=*} == "$1" ]] && return
    done
    return 1
}

start_container() {
    local variable at memory_kib user arguments
    arguments=(
        --detach --init --name "$CONTAINER" --network host --ulimit nofile=65536:65536
        --label "rayconcile.dev/cluster-uid=$RC_CLUSTER_UID" --label "rayconcile.dev/launch=$RC_LAUNCH"
        --label "rayconcile.dev/node=$RC_NODE" --env-file "$RUN/env" --volume "$BEAT:$BEAT"
    )
    # A line of such a file ends where the value does.
    (umask 077 && : >"$RUN/env")
    for variable in "${NODE_ENV[@]}"; do
        case $variable in
            *[$'\n\r']*) arguments+=(--env "$variable") ;;
            *) printf '%s\n' "$variable" >>"$RUN/env" ;;
        esac
    done
    [[ -z $RC_TOKEN_PARAMETER ]] || arguments+=(--volume "$TOKEN:$TOKEN:ro")
    for ((at = 0; at < ${#RC_FILE_SYSTEMS[@]}; at += 3)); do
        arguments+=(--volume "$ROOT${RC_FILE_SYSTEMS[at + 2]}:${RC_FILE_SYSTEMS[at + 2]}")
    done
    [[ ! -e $ROOT/dev/nvidia0 ]] || is_given --gpus || arguments+=(--gpus all)
    # Docker's 64 MB are too few for Ray's objects and for data loaders. Half of the memory is what a machine has.
    if ! is_given --shm-size && ! is_given --ipc; then
        memory_kib=$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)
        arguments+=(--shm-size "$((memory_kib / 2))k")
    fi
    arguments+=("${RC_DOCKER_OPTIONS[@]}")
    docker rm --force "$CONTAINER" >/dev/null 2>&1
    docker run "${arguments[@]}" "$RC_DOCKER_IMAGE" sleep infinity || give_up "docker run failed with status $?"
    user=$(docker exec "$CONTAINER" id -u) ||
        give_up "$RC_DOCKER_IMAGE does not run what it is told: $(docker logs "$CONTAINER" 2>&1 | tail -n 20)"
    # Ray is not root in most images, and the token is for its owner only.
    [[ -z $RC_TOKEN_PARAMETER || $user == "$EUID" ]] || chown "$user" "$TOKEN"
}

# Runs a command where Ray runs.
in_node() {
    if [[ -n $RC_DOCKER_IMAGE ]]; then
        docker exec "$CONTAINER" "$@" 9>&-
    else
        env "${NODE_ENV[@]}" "$@" 9>&-
    fi
}

# --- Ray ---------------------------------------------------------------------------------------------------------

set_up() {
    local command number=0
    for command in "${RC_SETUP[@]}"; do
        number=$((number + 1))
        say "set-up command $number of ${#RC_SETUP[@]}: ${command%%$'\n'*}"
        in_node bash -c "$command" || give_up "set-up command $number failed with status $?: ${command%%$'\n'*}"
    done
}

ray_arguments() {
    RAY_ARGUMENTS=(--block --disable-usage-stats "--node-ip-address=$ADDRESS")
    # At its own address, to which what comes for an Elastic IP is brought, and not at all of the machine's.
    if [[ $RC_ROLE == head ]]; then
        RAY_ARGUMENTS+=(
            --head "--port=$RC_GCS_PORT" "--dashboard-host=$ADDRESS" "--dashboard-port=$RC_DASHBOARD_PORT"
            --ray-client-server-port=10001
        )
    else
        RAY_ARGUMENTS+=("--address=$RC_HEAD_ADDRESS:$RC_GCS_PORT")
    fi
    RAY_ARGUMENTS+=(
        --node-manager-port=8271 --object-manager-port=8272 --runtime-env-agent-port=8273
        --dashboard-agent-listen-port=8274 --dashboard-agent-grpc-port=8275 --metrics-export-port=8276
        --min-worker-port=10002 --max-worker-port=19999
        "${RC_RAY_ARGUMENTS[@]}" "--labels=$RC_LABELS,ec2.instance-id=$INSTANCE"
    )
    [[ -z ${RAYCONCILE_RAY_TEMP:-} ]] || RAY_ARGUMENTS+=("--temp-dir=$RAYCONCILE_RAY_TEMP")
    RAY_ARGUMENTS+=("${RC_RAY_START[@]}")
    [[ -z ${RAYCONCILE_RAY_ARGUMENTS:-} ]] ||
        mapfile -t -O "${#RAY_ARGUMENTS[@]}" RAY_ARGUMENTS <<<"$RAYCONCILE_RAY_ARGUMENTS"
}

# A worker may be up before its head is; and what ends for want of memory is worth another try. A node that had joined is
# not taken back by the controller, which then ends the instance.
keep_ray() {
    local began wait_s=$RETRY_S words
    read -ra words <<<"${RAYCONCILE_RAY:-ray}"
    while true; do
        began=$(uptime_s)
        in_node "${words[@]}" start "${RAY_ARGUMENTS[@]}" 9>&- &
        wait $!
        # What had run well for a while is started again at once.
        (($(uptime_s) - began > RETRY_MAX_S)) && wait_s=$RETRY_S
        say "ray has ended; it is started again in $wait_s s"
        pause "$wait_s"
        wait_s=$(longer "$wait_s" "$RESTART_MAX_S")
        [[ -z $RC_DOCKER_IMAGE ]] || docker start "$CONTAINER" >/dev/null 2>&1 # It may have ended, and Ray with it.
    done
}

# --- The watch ---------------------------------------------------------------------------------------------------

# Asks the agent who needs this node (`life.py`): an answer that is one goes to LIFE, else LIFE is empty.
ask_life() {
    LIFE=$(ask "http://$RC_HEAD_ADDRESS:$RC_AGENT_PORT/v1/life?address=$ADDRESS" 2>/dev/null)
    [[ $LIFE == *'"unsafeCheckpoints"'* ]] || LIFE=
}

# Prints the whole part of a number in the answer; nothing if it is null.
number() {
    local pattern="\"$1\": *([0-9]+)"
    [[ $LIFE =~ $pattern ]] && echo "${BASH_REMATCH[1]}"
}

has_joined() {
    if [[ $RC_ROLE == head ]]; then
        ask "http://$ADDRESS:$RC_DASHBOARD_PORT/api/gcs_healthz" >/dev/null 2>&1
    else
        [[ $LIFE =~ \"joined\":\ *true ]]
    fi
}

# Takes from an answer when this node was needed last: it tells ages, so that it need not come at the right moment.
note_life() {
    local age
    [[ -n $LIFE ]] || return
    SILENT=$1
    for age in $(number controllerS) $(number jobS); do
        ((NEEDED = $1 - age > NEEDED ? $1 - age : NEEDED))
    done
}

# Notes whether a worker has shown itself since the last look: one on this node; on any node, if this is the head.
note_beat() {
    local beat=''
    { read -r beat <"$BEAT"; } 2>/dev/null
    [[ $beat != "${SEEN:-}" ]] || return
    SEEN=$beat NEEDED=$1 SILENT=$1
}

# Whether nobody has needed this node for so long that it ends itself. With a head its checkpoints would be lost: it
# waits for somebody to fetch them, but not for an agent that will never answer. SILENT is since when nobody can say
# whether it has any.
is_orphan() {
    (($1 - NEEDED >= RC_ORPHAN_S)) || return
    [[ $RC_ROLE == head ]] || return 0
    if [[ -n $LIFE ]]; then
        [[ $(number unsafeCheckpoints) == 0 ]]
    else
        [[ -z ${SILENT:-} ]] || (($1 - SILENT >= 2 * RC_ORPHAN_S))
    fi
}

watch() {
    local joined='' now
    trap stand_aside TERM INT
    trap 'give_up "its watch has ended"' EXIT
    # Whatever the kernel kills for want of memory, this shall stay.
    { echo -1000 >/proc/self/oom_score_adj; } 2>/dev/null
    while true; do
        now=$(uptime_s)
        ask_life
        if [[ -n $joined ]]; then
            note_life "$now"
            note_beat "$now"
            is_orphan "$now" && give_up "it has had no job and heard of no controller for $RC_ORPHAN_S s"
            pause "$ORPHAN_POLL_S"
        elif has_joined; then
            say 'this node has joined'
            joined=yes NEEDED=$now
        else
            is_late && give_up "it has not joined within $RC_JOIN_S s"
            pause "$JOIN_POLL_S"
        fi
    done
}

main() {
    local at
    STARTED=$(uptime_s)
    trap stand_aside TERM INT
    trap 'give_up "its boot script has ended"' EXIT
    exec </dev/null
    install -d -m 0711 "$RUN" && mkdir -p "${LOG%/*}"
    exec 9>"$RUN/lock"
    flock --nonblock 9
    case $? in
        0) ;;
        1) say 'this is being done already' && trap - EXIT && exit ;;
        *) give_up "its lock cannot be had" ;;
    esac
    exec > >(exec tee -a "$LOG" 9>&-) 2>&1
    say "node $RC_NODE of cluster $RC_CLUSTER_UID, $RC_ROLE, launch $RC_LAUNCH"
    # cloud-init gives no home. Settings of other Ray clusters would be taken for this one's.
    export HOME=${HOME:-/root}
    install -m 0666 /dev/null "$BEAT" || say "$BEAT cannot be made"
    unset "${!RAY_@}"
    ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"

    persist 'asking the metadata service' learn_facts
    watch 9>&- &
    run_at_every_boot
    if [[ -n $RC_DATA_PATH ]]; then
        mount_data || give_up "the data disk cannot be made"
        move_docker || give_up "Docker cannot be moved to the data disk"
    fi
    for ((at = 0; at < ${#RC_FILE_SYSTEMS[@]}; at += 3)); do
        persist "mounting ${RC_FILE_SYSTEMS[at]}" mount_efs "${RC_FILE_SYSTEMS[@]:at:3}"
    done
    if [[ -n $RC_TOKEN_PARAMETER ]]; then
        command -v aws >/dev/null || give_up "the image has no AWS CLI, which fetches Ray's token"
        persist "fetching Ray's token" fetch_token
    fi
    make_environment
    if [[ -n $RC_DOCKER_IMAGE ]]; then
        command -v docker >/dev/null || give_up 'the image has no Docker'
        persist 'reaching Docker' docker_answers
        persist "pulling $RC_DOCKER_IMAGE" pull_image
        start_container
    fi
    set_up
    ray_arguments
    keep_ray
}

main
