# bash completion for prefork-sd(8)

# The names of the declared services.
_prefork_sd_services() {
	local folder file
	local IFS=:
	for folder in ${PREFORK_SD_CONFIG_PATH:-/etc/prefork-sd:/run/prefork-sd:/usr/lib/prefork-sd/services}; do
		for file in "$folder"/*.yaml; do
			file=${file##*/}
			[ "$file" = '*.yaml' ] || printf '%s\n' "${file%.yaml}"
		done
	done
}

_prefork_sd() {
	local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	local command='' word words=''
	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		[[ $word == -* ]] || { command=$word && break; }
	done
	COMPREPLY=()

	case $before in
		--access-log) words='off errors all' ;;
		--log-level) words='debug info warning error' ;;
		--worker-class) words='auto sync threads asgi' ;;
		--preload-app | --proxy-protocol) words='yes no' ;;
		--workers) words=auto ;;
		--app | --name) return ;;
		--directory | --pythonpath | --venv)
			compopt -o dirnames 2>/dev/null
			return ;;
		--control | --env-file | --pidfile)
			compopt -o default 2>/dev/null
			return ;;
	esac
	if [ -n "$words" ]; then
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
		return
	fi

	case $command:$current in
		:-*) words='--help --version' ;;
		:*) words='init import run serve check reload deploy scale status unit schema' ;;
		init:-* | import:-* | serve:-* | reload:-* | status:-* | run:-* | check:-* | deploy:-* | scale:-* | unit:-* | schema:-*)
			words=$(prefork-sd "$command" --help 2>/dev/null | grep -oE -e '--[a-z][a-z-]+' | sort -u) ;;
		init:*)
			compopt -o dirnames 2>/dev/null
			return ;;
		import:*)
			compopt -o default 2>/dev/null
			mapfile -t COMPREPLY < <(compgen -f -X '!*.py' -- "$current")
			return ;;
		run:* | check:* | reload:* | deploy:* | scale:* | status:* | unit:*)
			[ "$before" = "$command" ] || [ "$command" = deploy ] || return 0
			compopt -o plusdirs 2>/dev/null
			words=$(_prefork_sd_services)
			mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current"; compgen -f -X '!*.yaml' -- "$current")
			return ;;
		*) return ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _prefork_sd prefork-sd
